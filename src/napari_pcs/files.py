"""Writing that leaves no half files: each is there in full, or as it was."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_pcs.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["append_text", "json_bytes", "refused", "write_bytes", "write_json", "write_text", "write_together"]


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files so that all are there in full, or all are as they were.

    Each goes into a temporary file beside its target and is flushed to disk; only when every one
    has arrived are they renamed into place.

    Raises
    ------
    SessionError
        If a folder is read-only or the disk is full; the old files, if any, are untouched.
    """
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
            staged[path] = Path(name)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            staged[path].chmod(0o666 & ~_umask())
        for path, temporary in staged.items():
            temporary.replace(path)
    except BaseException as error:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise  # Ctrl-C must not leave temporary files either
        raise refused(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write one file atomically; see `write_together`."""
    write_together({path: content})


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    write_bytes(path, json_bytes(content))


def append_text(path: Path, content: str) -> None:
    """Append UTF-8 text to a file, made if need be; costs the same however long the file is.

    The text is with the operating system when this returns, so it outlives this process, but not a
    loss of power.

    Raises
    ------
    SessionError
        If the folder is read-only or the disk is full; the file is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as stream:
            size, left = stream.tell(), memoryview(content.encode())
            try:
                while left:
                    left = left[os.write(stream.fileno(), left) :]
            except BaseException:
                stream.truncate(size)
                raise
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> SessionError:
    """Return the sentence for a file that could not be written."""
    msg = f"{path.name}: could not be written to {path.parent} because {_reason(error)} Nothing was changed."
    return SessionError(msg)


def json_bytes(content: Any) -> bytes:
    """Return indented JSON as UTF-8."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full; free some space and save again."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "the folder is read-only; choose another folder or change its permissions."
        case _:
            return f"the system refused ({error.strerror or error}); choose another folder."
