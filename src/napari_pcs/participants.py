"""The list of people in a session's `participants.tsv`."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from napari_pcs.files import refused, write_together
from napari_pcs.layout import is_listed, listed_people, participants
from napari_pcs.locks import locked_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Participants"]

_PATIENCE_S = 60.0
"""How long another program may keep the list."""


class Participants:
    """The people of a session; further columns that somebody has added to the file stay.

    Parameters
    ----------
    root
        Folder of the session.
    """

    def __init__(self, root: Path) -> None:
        self._path, self._lock = root / "participants.tsv", root / "session.json"

    def write(self, people: set[str]) -> None:
        """Write the list anew for these subjects, without `sub-`.

        Raises
        ------
        SessionError
            If the disk refuses, or another program keeps the list.
        """
        with self._locked():
            write_together({self._path: participants(people, self._read())})

    @contextmanager
    def with_listed(self, subject: str) -> Iterator[dict[Path, bytes]]:
        """Yield what to write so that a person is listed; nothing if the person is.

        The list is read and not the folders, so that it costs the same however many cases there are.

        Raises
        ------
        SessionError
            If another program keeps the list.
        """
        if is_listed(subject, self._read()):
            yield {}
            return
        with self._locked():
            known = self._read()
            yield {self._path: participants(listed_people(known) | {subject}, known)}

    def _read(self) -> str:
        try:
            return self._path.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other program change the list meanwhile: one that both add to would lose a person."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_file(self._lock, _PATIENCE_S))
            except OSError as error:
                raise refused(self._lock, error) from error
            yield
