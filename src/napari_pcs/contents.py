"""Which files of cases a session folder holds, by their names; asking again costs a fraction of the first time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Contents"]

_STILL_MOVING_NS = 2_000_000_000
"""A folder that changed within this time before it was listed may change once more without its time telling."""


class _Listed(NamedTuple):
    changed_ns: int
    names: frozenset[str]
    folders: tuple[str, ...]


class Contents:
    """Names of the files below `sub-*/anat` and `sub-*/ses-*/anat`.

    What was listed is kept, and a folder is listed again when its time of change is another one:
    programs may share a session.

    Parameters
    ----------
    root
        The session's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._listed: dict[str, _Listed] = {}

    def names(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield the path of every `anat` folder and the names of the files in it."""
        seen: dict[str, _Listed] = {}
        for person in self._folders(self._root, seen, "sub-"):
            for place in (person, *self._folders(person, seen, "ses-")):
                anat = os.path.join(place, "anat")  # noqa: PTH118  ten times faster over a thousand people
                if (found := self._list(anat, seen)) is not None and found.names:
                    yield anat, found.names
        self._listed = seen

    def _folders(self, folder: str, seen: dict[str, _Listed], beginning: str) -> Iterator[str]:
        found = self._list(folder, seen)
        for name in found.folders if found else ():
            if name.startswith(beginning):
                yield os.path.join(folder, name)  # noqa: PTH118

    def _list(self, folder: str, seen: dict[str, _Listed]) -> _Listed | None:
        now = time.time_ns()
        try:
            changed = os.stat(folder).st_mtime_ns  # noqa: PTH116
            known = self._listed.get(folder)
            if known is None or known.changed_ns != changed:
                known = self._read(folder, changed)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if changed < now - _STILL_MOVING_NS:
            seen[folder] = known
        return known

    @staticmethod
    def _read(folder: str, changed: int) -> _Listed:
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry.name)
        return _Listed(changed, frozenset(files), tuple(sorted(folders)))
