"""Arrays kept on disk under a key, within a limit: what can be computed again, but not as fast as it is read.

One file a bundle, in the safetensors format, of which a reader maps what it needs. Processes may
share a folder: a file appears in full or not at all, and the least recently used go first when
there are more bytes than the limit. A file that is truncated or altered counts as none.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from napari_pcs.data.bundle_file import Bundle, Identity, UnsoundError, open_bundle, write_bundle
from napari_pcs.data.room import PART, SUFFIX, Room, files_of
from napari_pcs.errors import SessionError
from napari_pcs.files import refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Bundle", "Bundles", "bundle_key"]

_KEY = re.compile("[0-9a-f]{8,128}")
_log = logging.getLogger(__name__)
_warned: set[tuple[Path, str]] = set()


def bundle_key(*parts: str | bytes | NDArray[np.generic]) -> str:
    """Return a key (hex SHA-256) of whatever decides the content: digests, names, arrays with their shapes and types.

    Raises
    ------
    TypeError
        If a part is neither, or an array of objects.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            if part.dtype.hasobject:
                msg = f"A key of an array of {part.dtype}: expected numbers."
                raise TypeError(msg)
            stored = np.asarray(part, part.dtype.newbyteorder("<"), order="C")
            _feed(digest, b"array", f"{stored.dtype.str} {stored.shape}".encode())
            _feed(digest, b"", stored.reshape(-1).view(np.uint8).data)
        elif isinstance(part, str):
            _feed(digest, b"text", part.encode())
        elif isinstance(part, bytes):
            _feed(digest, b"bytes", part)
        else:
            msg = f"A key of {type(part).__name__}: expected text, bytes or an array."
            raise TypeError(msg)
    return digest.hexdigest()


class Bundles:
    """A folder of bundles, which threads and processes may share.

    Parameters
    ----------
    folder
        Made when the first bundle is written. Where it refuses (full, read-only), bundles are not
        kept, and a warning is logged once; each further one is tried, for a disk may be freed.
    limit_bytes
        Most that all bundles together may take.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = Path(folder).absolute(), limit_bytes
        self._room = Room(self.folder, limit_bytes)
        self._sound: dict[str, Identity] = {}

    def read(self, key: str) -> Bundle | None:
        """Return the bundle of a key and note that it was used; None if there is no sound one.

        Its checksum is verified the first time that this process opens the file. The arrays stay
        readable when the bundle is evicted. Reading again costs 0.1 ms: rather that than holding
        many at once, for before Python 3.13 each has an open file as long as one of its arrays lives.
        """
        path = self._path(key)
        try:
            bundle, self._sound[key] = open_bundle(path, key, self._sound.get(key))
        except OSError as error:
            _log.debug("Bundle %s is not read: %s", key, error)
            return None
        except UnsoundError as error:
            _warn_once(path, "unsound", f"A bundle in {path.parent} counts as none and is removed, because {error}.")
            self.discard(key)
            return None
        return bundle

    def has(self, key: str) -> bool:
        """Say whether there is a file for a key, without reading it."""
        return self._path(key).exists()

    def write(self, key: str, arrays: Mapping[str, NDArray[Any]], note: Mapping[str, Any] | None = None) -> bool:
        """Keep arrays under a key; say whether they are kept. Older bundles make room.

        Parameters
        ----------
        key
            Hex digits; see `bundle_key`.
        arrays
            By name: floating-point numbers of 16 to 64 bits, integers or truth values, of any shape.
        note
            Of JSON types.

        Raises
        ------
        TypeError
            If an array or the note is of another type.
        """
        path = self._path(key)
        size = sum(array.nbytes for array in arrays.values())
        if size > self.limit_bytes:
            self._no_room(size)
            return False
        part = path.with_name(f".{key[:16]}.{uuid4().hex}{PART}")
        try:
            identity = self._write_part(part, key, arrays, note or {})
            kept = self._room.place(part, path)
        except OSError as error:
            self._refused(path, error)
            return False
        finally:
            _remove(part)
        if kept:
            self._sound[key] = identity
        else:
            self._no_room(size)
        return kept

    def discard(self, key: str) -> None:
        """Forget a bundle, if there is one."""
        self._sound.pop(key, None)
        try:
            self._room.remove(self._path(key))
        except OSError as error:
            _log.debug("Bundle %s is not removed: %s", key, error)

    def usage(self) -> tuple[int, int]:
        """Return how many bundles there are, and their bytes."""
        sizes = [file.size for file in files_of(self.folder)]
        return len(sizes), sum(sizes)

    def clear(self) -> int:
        """Remove all bundles; return the bytes that were freed.

        Raises
        ------
        SessionError
            If the folder cannot be changed.
        """
        try:
            return self._room.clear()
        except TimeoutError as error:
            msg = f"{self.folder.name}: found it held by another process, expected it free. Try again in a moment."
            raise SessionError(msg) from error
        except OSError as error:
            raise refused(self.folder, error) from error

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            msg = f"Key {key!r}: expected hex digits, as bundle_key returns them."
            raise ValueError(msg)
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def _write_part(
        self, part: Path, key: str, arrays: Mapping[str, NDArray[Any]], note: Mapping[str, Any]
    ) -> Identity:
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            return write_bundle(part, key, arrays, note)
        except FileNotFoundError:  # somebody has emptied the folder in this moment
            part.parent.mkdir(parents=True, exist_ok=True)
            return write_bundle(part, key, arrays, note)

    def _refused(self, path: Path, error: OSError) -> None:
        if isinstance(error, PermissionError) and path.exists():
            _log.debug("Bundle %s is not replaced: %s", path, error)  # on Windows, while somebody reads the old one
            return
        reason = refused(path, error)
        _warn_once(self.folder, "refused", f"What is computed is not kept, and computed at every use. {reason}")

    def _no_room(self, size: int) -> None:
        found, limit = (f"{count / 1e6:.4g} MB" for count in (size, self.limit_bytes))
        _warn_once(self.folder, "room", f"There is no room for {found} in {self.folder}, which may hold {limit}.")


def _feed(digest: Any, kind: bytes, content: bytes | memoryview) -> None:
    digest.update(b"%s %d " % (kind, len(content)))
    digest.update(content)


def _warn_once(path: Path, what: str, sentence: str) -> None:
    if (path, what) not in _warned:
        _warned.add((path, what))
        _log.warning("%s", sentence)


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError as error:
        _log.debug("%s is left behind: %s", part, error)
