"""One bundle in one file: the safetensors format, with a checksum over all of it.

The file begins with the length of a JSON header (8 bytes, little-endian), the header, and the arrays
one after another (https://github.com/huggingface/safetensors, section *Format*). The header's
`__metadata__` says what the file is, under which key it was written, its note, and the CRC-32 of
header and arrays in which the checksum itself is written as zeros.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Bundle", "Identity", "UnsoundError", "identity_of", "open_bundle", "write_bundle"]

_MADE_BY = "napari-pcs bundle 1"
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(spelled): name for name, spelled in _TYPES.items()}
_OPENING = b'{"__metadata__":{"checksum":"'
_NO_SUM = b"00000000"
_ALIGNMENT = 64
_MOST_HEADER = 1 << 24
_CHUNK = 1 << 20

Identity = tuple[int, int, int]
"""Inode, time of the last change and size of a file: what changes when its content does."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """Arrays under one key.

    Attributes
    ----------
    arrays
        By name, memory-mapped and read-only.
    note
        Whatever was written beside them, of JSON types.
    """

    arrays: Mapping[str, NDArray[Any]]
    note: Mapping[str, Any]


class UnsoundError(Exception):
    """A file is truncated, altered, or no bundle of this key."""


def identity_of(stat: os.stat_result) -> Identity:
    """Return what tells a file's content from another."""
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def write_bundle(path: Path, key: str, arrays: Mapping[str, NDArray[Any]], note: Mapping[str, Any]) -> Identity:
    """Write a new file; what remains of it after an error is for the caller to remove.

    Raises
    ------
    OSError
        If it cannot be written, or is there already.
    TypeError
        If an array or the note is of a type that the format does not have.
    """
    stored = {name: _stored(name, array) for name, array in arrays.items()}
    # The largest items first: every array then begins at a multiple of its item's size.
    order = sorted(stored, key=lambda name: (-stored[name].dtype.itemsize, name))
    parts = [stored[name].reshape(-1).view(np.uint8).data for name in order]
    header = _header(key, note, [(name, stored[name]) for name in order])
    checksum = zlib.crc32(header)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    first, rest = header[: len(_OPENING)], header[len(_OPENING) + len(_NO_SUM) :]
    with path.open("xb", buffering=0) as stream:
        _put(stream, b"".join((len(header).to_bytes(8, "little"), first, b"%08x" % checksum, rest)))
        for part in parts:
            _put(stream, part)
    now = time.time_ns()
    os.utime(path, ns=(now, now))  # finer than the system's own clock for files, of which two may be alike
    return identity_of(path.stat())


def open_bundle(path: Path, key: str, known: Identity | None) -> tuple[Bundle, Identity]:
    """Map a file, and mark it as used now.

    Parameters
    ----------
    path
        The file.
    key
        Under which it was written.
    known
        Identity of the content that was found to be sound before; the checksum of any other is verified.

    Raises
    ------
    OSError
        If it is not there or cannot be read.
    UnsoundError
        If it is not what was written under this key.
    """
    with path.open("rb", buffering=0) as stream:
        stat = os.fstat(stream.fileno())
        identity = identity_of(stat)
        header = _read_header(stream, stat.st_size)
        if identity != known:
            _verify(stream, header)
        try:
            content = json.loads(header)
            meta = content.pop("__metadata__")
            if (meta["made_by"], meta["key"]) != (_MADE_BY, key):
                msg = "it was written under another key"
                raise UnsoundError(msg)
            note = json.loads(meta["note"])
            mapped = np.frombuffer(_map(stream.fileno()), np.uint8)
            arrays = {name: _view(mapped, 8 + len(header), entry) for name, entry in content.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            msg = f"its header is not one of a bundle ({error})"
            raise UnsoundError(msg) from error
    with suppress(OSError):  # a folder that may only be read, or a file that was just evicted, needs no mark
        os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))
    return Bundle(MappingProxyType(arrays), MappingProxyType(note)), identity


def _stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if name == "__metadata__" or array.dtype.newbyteorder("<") not in _NAMES:
        msg = f"Array {name!r} of {array.dtype}: expected one of {', '.join(map(str, _NAMES))}."
        raise TypeError(msg)
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _header(key: str, note: Mapping[str, Any], arrays: list[tuple[str, NDArray[Any]]]) -> bytes:
    meta = {"checksum": _NO_SUM.decode(), "made_by": _MADE_BY, "key": key, "note": json.dumps(dict(note))}
    ends = np.cumsum([0, *(array.nbytes for _, array in arrays)]).tolist()
    entries = {
        name: {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": list(span)}
        for (name, array), span in zip(arrays, pairwise(ends), strict=True)
    }
    header = json.dumps({"__metadata__": meta, **entries}, separators=(",", ":")).encode()
    return header + b" " * (-(8 + len(header)) % _ALIGNMENT)


def _put(stream: BinaryIO, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        left = left[stream.write(left) :]


def _read_header(stream: BinaryIO, size: int) -> bytes:
    length = int.from_bytes(stream.read(8), "little")
    if not len(_OPENING) + len(_NO_SUM) <= length <= min(_MOST_HEADER, size - 8):
        msg = "it is truncated, or no bundle"
        raise UnsoundError(msg)
    header = stream.read(length)
    if len(header) != length or not header.startswith(_OPENING):
        msg = "it is truncated, or no bundle"
        raise UnsoundError(msg)
    return header


def _verify(stream: BinaryIO, header: bytes) -> None:
    """Compare the checksum with the content, which is read: a mapped file that is cut short would kill the process."""
    start, end = len(_OPENING), len(_OPENING) + len(_NO_SUM)
    found = zlib.crc32(header[:start] + _NO_SUM + header[end:])
    chunk = bytearray(_CHUNK)
    while count := stream.readinto(chunk):  # type: ignore[attr-defined]
        found = zlib.crc32(memoryview(chunk)[:count], found)
    if b"%08x" % found != header[start:end]:
        msg = "its checksum does not match its content"
        raise UnsoundError(msg)


def _map(handle: int) -> mmap.mmap:
    if sys.version_info >= (3, 13) and sys.platform != "win32":
        return mmap.mmap(handle, 0, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(handle, 0, access=mmap.ACCESS_READ)  # has an open file of its own, of which there is a limit


def _view(mapped: NDArray[np.uint8], start: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    first, last = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), np.dtype(_TYPES[entry["dtype"]])
    if last - first != dtype.itemsize * math.prod(shape):
        msg = "an array of another size than its shape"
        raise ValueError(msg)
    return mapped[start + first : start + last].view(dtype).reshape(shape)
