"""Events of a run, one a line: appended as they happen, read by whoever follows. Needs no torch."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from pydantic import ValidationError

from napari_pcs.errors import InputError
from napari_pcs.files import append_text, write_bytes
from napari_pcs.training import events as all_events

if TYPE_CHECKING:
    from pathlib import Path

    from napari_pcs.training.events import Event

__all__ = ["drop_torn_line", "last_event", "read_events", "write_event"]

_TAIL = 2**20
"""Bytes that mostly hold the last event; one that names everybody of a large cohort is longer."""
_KINDS: dict[str, type[Event]] = {name: getattr(all_events, name) for name in all_events.__all__ if name != "Event"}


def write_event(path: Path, event: Event) -> None:
    """Append an event as one line.

    Raises
    ------
    SessionError
        If the disk is full or read-only; what is there stays.
    """
    # Not pydantic's own JSON: a loss that is not a number must be found as such, not as null.
    append_text(path, json.dumps({"event": type(event).__name__, **event.model_dump(mode="json")}) + "\n")


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Read the events that were appended since the last call, while the run goes on writing.

    Parameters
    ----------
    path
        The run's `events.jsonl`; may not be there yet.
    offset
        Where to begin, in bytes: 0, or what the last call returned.

    Returns
    -------
    events
        In the order in which they happened; kinds that this version does not know are left out.
    offset
        Behind the last whole line: a line that is being written is read by the next call.

    Raises
    ------
    InputError
        If a line is no event.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            content = stream.read()
    except FileNotFoundError:
        return [], offset
    whole = content[: content.rfind(b"\n") + 1]
    found = (_parse(line, path) for line in whole.splitlines())
    return [event for event in found if event is not None], offset + len(whole)


def last_event(path: Path) -> Event | None:
    """Return the last event that was written in full, without reading those before it; None if there is none.

    Raises
    ------
    InputError
        If that line is no event.
    """
    if not path.exists():
        return None
    with path.open("rb") as stream:
        start = max(0, stream.seek(0, os.SEEK_END) - _TAIL)
        stream.seek(start)
        lines = _whole_lines(stream.read())
        if start and len(lines) < 2:  # the one there may have lost its beginning
            stream.seek(0)
            lines = _whole_lines(stream.read())
    return _parse(lines[-1], path) if lines else None


def _whole_lines(content: bytes) -> list[bytes]:
    return content[: content.rfind(b"\n") + 1].splitlines()


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without its end, as a process leaves it that was killed or lost its power.

    Raises
    ------
    SessionError
        If the file cannot be written.
    """
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_bytes(path, whole)


def _parse(line: bytes, path: Path) -> Event | None:
    try:
        content = json.loads(line)
        kind = _KINDS.get(content.pop("event"))
        return kind.model_validate(content) if kind else None
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        raise InputError(
            found=f"a line that is no event ({line[:60].decode(errors='replace')})",
            expected="one event a line",
            advice="Was it written by another version?",
            path=path,
        ) from error
