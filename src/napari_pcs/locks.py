"""Advisory locks on files, between threads and processes: the system gives them back when their holder dies."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["NO_LOCKS", "TAKEN", "give_back", "locked_file", "take"]

TAKEN = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
"""What the system says where another holds the lock."""
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
"""What it says on a file system that has no locks."""
_PAUSE_S = 0.002

if sys.platform == "win32":
    import msvcrt

    # Windows lets nobody read a locked byte: one that is never written leaves the file's content readable.
    _FAR = 1 << 30

    def take(handle: int, *, shared: bool) -> None:  # noqa: ARG001  Windows knows no shared lock here
        """Take the lock of an open file, or raise OSError at once."""
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def give_back(handle: int) -> None:
        """Give the lock of an open file back."""
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def take(handle: int, *, shared: bool) -> None:
        """Take the lock of an open file, or raise OSError at once."""
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def give_back(handle: int) -> None:
        """Give the lock of an open file back."""
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def locked_file(path: Path, wait_s: float) -> Iterator[int]:
    """Open a file, made if need be, and hold its lock; yields its handle.

    Where the file system has no locks, nothing is held.

    Parameters
    ----------
    path
        The file; its folder is there.
    wait_s
        How long to wait for another holder, in seconds.

    Raises
    ------
    OSError
        If the file cannot be opened for writing; TimeoutError if another holds it for longer.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        held = _wait(handle, path, wait_s)
        try:
            yield handle
        finally:
            if held:
                # A child that was forked meanwhile has the file open too; closing it here would not free it.
                give_back(handle)
    finally:
        os.close(handle)


def _wait(handle: int, path: Path, wait_s: float) -> bool:
    until = time.monotonic() + wait_s
    while True:
        try:
            take(handle, shared=False)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            if error.errno not in TAKEN:
                raise
            if time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds it", str(path)) from error
            time.sleep(_PAUSE_S)
        else:
            return True
