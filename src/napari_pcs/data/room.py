"""How many bytes the files of a folder take together, and which of them go when there are too many.

The number stands in a file beside them, so that processes which share the folder know of one
another's files without looking at each. Whoever adds or removes one holds that file's lock.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from napari_pcs.locks import locked_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["PART", "SUFFIX", "FoundFile", "Room", "files_of"]

SUFFIX = ".safetensors"
PART = ".part"
"""Of a file that is still being written."""
_SIZE = "size"
_WAIT_S = 10.0
_DIGITS = 20
_KEEP = 0.9
"""Share of the limit that is left after files had to go: looking at all of them is then rare."""
_ABANDONED_S = 3600.0
"""A file is written within seconds; one that is half written for longer than this, by a process that died."""

_scanned: set[Path] = set()
"""Folders whose files this process has counted."""


class FoundFile(NamedTuple):
    """A file, its size in bytes and when it was last used (nanoseconds)."""

    path: str
    size: int
    used: int


def files_of(folder: Path) -> Iterator[FoundFile]:
    """Yield every bundle of a folder; half-written files of dead processes are removed."""
    for entry in chain.from_iterable(_entries(below.path) for below in _entries(folder)):
        try:
            stat = entry.stat()
            if entry.name.endswith(SUFFIX):
                yield FoundFile(entry.path, stat.st_size, max(stat.st_atime_ns, stat.st_mtime_ns))
            elif entry.name.endswith(PART) and time.time() - stat.st_mtime > _ABANDONED_S:
                os.unlink(entry.path)  # noqa: PTH108  a path object for each of 10,000 files takes longer
        except OSError:
            continue  # gone meanwhile, or in use by another process


class Room:
    """The room that a folder has for files, up to a limit in bytes."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes

    def place(self, part: Path, target: Path) -> bool:
        """Give a written file its name, after older ones have made room; say whether there was room.

        Raises
        ------
        OSError
            If the system refuses.
        """
        with self._counted() as count:
            added = part.stat().st_size - _size(target)
            total = count.total
            if total + added > self.limit_bytes:
                total = self._evict(target, added)
            count.total = total
            if total + added > self.limit_bytes:
                return False
            part.replace(target)
            count.total += added
            return True

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        OSError
            If the system refuses.
        """
        if not path.exists():
            return
        with self._counted() as count:
            size = _size(path)
            path.unlink(missing_ok=True)
            count.total -= size

    def clear(self) -> int:
        """Remove every file that can be removed; return the bytes that were freed.

        Raises
        ------
        OSError
            If the folder cannot be changed.
        """
        if not self.folder.is_dir():
            return 0
        with self._counted() as count:
            removed = sum(file.size for file in files_of(self.folder) if _unlinked(file.path))
            count.total = sum(file.size for file in files_of(self.folder))
            return removed

    def _evict(self, target: Path, added: int) -> int:
        """Remove what was used longest ago; return the bytes that are left."""
        found = sorted(files_of(self.folder), key=lambda file: (file.used, file.path))
        total = sum(file.size for file in found)
        if total + added <= self.limit_bytes:
            return total  # somebody else has removed files
        goal = max(0, int(_KEEP * self.limit_bytes) - added)
        for file in found:
            if total <= goal:
                break
            if file.path != str(target) and _unlinked(file.path):
                total -= file.size
        return total

    @contextmanager
    def _counted(self) -> Iterator[_Count]:
        with locked_file(self.folder / _SIZE, _WAIT_S) as handle:
            total = _read_number(handle) if self.folder in _scanned else None
            if total is None:
                total = sum(file.size for file in files_of(self.folder))
                _scanned.add(self.folder)
            count = _Count(total)
            try:
                yield count
            finally:
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, b"%0*d" % (_DIGITS, max(0, count.total)))


class _Count:
    def __init__(self, total: int) -> None:
        self.total = total


def _read_number(handle: int) -> int | None:
    os.lseek(handle, 0, os.SEEK_SET)
    text = os.read(handle, _DIGITS + 1)
    return int(text) if len(text) == _DIGITS and text.isdigit() else None


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _unlinked(path: str) -> bool:
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return True
    except OSError:
        return False  # on Windows a file that is mapped cannot go
    return True
