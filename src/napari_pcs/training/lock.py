"""One process at a time goes on with a run: a lock that the system gives back when its holder dies."""

from __future__ import annotations

import os
import socket
import sys
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_pcs.errors import ModelError
from napari_pcs.files import refused
from napari_pcs.locks import NO_LOCKS, TAKEN, give_back, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["is_locked", "run_lock"]

LOCK = "lock"

_TRIES, _PAUSE_S = 5, 0.1
"""`is_locked` holds a lock itself for a moment; whoever wants one waits for longer than that."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run for this process.

    The file `lock` in the folder says who took it last and stays when it is free again. What counts
    is the system's advisory lock on it, which ends with the process, however that ends. Where a
    file system has no locks, a warning says so and nothing is held.

    Parameters
    ----------
    folder
        Of the run; made if need be.

    Raises
    ------
    ModelError
        If another process holds it.
    SessionError
        If the folder is read-only or the disk full.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise refused(path, error) from error
    held = False
    try:
        held = _hold(handle, path)
        if held:
            _HELD.add(handle)
            _sign(handle, path)
        yield
    finally:
        if handle in _HELD:
            _HELD.discard(handle)
            give_back(handle)
            os.close(handle)
        elif not held:
            os.close(handle)


def is_locked(folder: Path) -> bool:
    """Say whether a process holds a run; this one counts too.

    Raises
    ------
    SessionError
        If the lock is there but cannot be asked.
    """
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refused(path, error) from error
    try:
        take(handle, shared=True)
        give_back(handle)
    except OSError as error:
        if error.errno in TAKEN:
            return True
        if error.errno in NO_LOCKS:
            return False
        raise refused(path, error) from error
    finally:
        os.close(handle)
    return False


def _hold(handle: int, path: Path) -> bool:
    """Take the lock; return whether the file system has locks at all."""
    for left in reversed(range(_TRIES)):
        try:
            take(handle, shared=False)
        except OSError as error:
            if error.errno in NO_LOCKS:
                msg = (
                    f"Run {path.parent.name}: found a file system without locks."
                    " See to it that no other process trains this run meanwhile."
                )
                warnings.warn(msg, stacklevel=4)
                return False
            if error.errno not in TAKEN:
                raise refused(path, error) from error
            if not left:
                raise _taken(handle, path) from error
            time.sleep(_PAUSE_S)
        else:
            break
    return True


def _taken(handle: int, path: Path) -> ModelError:
    os.lseek(handle, 0, os.SEEK_SET)
    # Between taking the lock and signing it there is a moment without a name.
    who = os.read(handle, 1000).decode(errors="replace").strip() or "not yet signed"
    msg = (
        f"Run {path.parent.name}: found it being trained by another process ({who}), expected none."
        " Stop that one first."
    )
    return ModelError(msg)


def _sign(handle: int, path: Path) -> None:
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError as error:
        raise refused(path, error) from error


_HELD: set[int] = set()
"""Open lock files of this process."""


def _leave_to_parent() -> None:
    """Drop what a forked process inherits: one that reads ahead would hold the run after its parent's death."""
    while _HELD:
        os.close(_HELD.pop())


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave_to_parent)
