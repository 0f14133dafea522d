"""Hemispheres as the network sees them, kept on disk so that a patch costs a few milliseconds.

A hemisphere is brought onto the network's grid once. It is stored as one byte a voxel (100 times the
tissue, so 0, 100 grey and 200 white, and what interpolation makes between them) in an uncompressed
`.npy`, of which a reader takes only the planes that a patch touches; a JSON file beside it says where
the box lies and where its tissue is. Entries are named after the file they come from, its size and its
time, so that one that changes is read anew.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_pcs.anatomy.frame import HemisphereFrame
from napari_pcs.anatomy.grid import NetworkGrid, on_grid
from napari_pcs.errors import InputError, SessionError
from napari_pcs.files import refused, write_together
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_pcs.volume import Volume

__all__ = ["FOLDER", "STEPS", "HemisphereCache", "Placed", "cache_root", "default_cache"]

FOLDER = "NAPARI_PCS_CACHE"
"""Environment variable: folder for all that is kept, instead of the user's cache folder."""

STEPS = 200
"""Stored value of white matter; the tissue in [0, 1] is the stored value over this."""
_FORMAT = 1
_CENTRES = 4096
_Triple = tuple[int, int, int]
_log = logging.getLogger(__name__)


class Placed(BaseModel):
    """Where a stored hemisphere lies on the network's grid, and where it has tissue.

    Attributes
    ----------
    hemisphere, origin, spacing, length_mm
        Frame of the hemisphere on its own grid.
    own_shape
        Voxels of its own grid.
    start, size
        First voxel of the stored box on the network's grid, and its voxels.
    centres
        Voxels of the box (flat, C order) that hold tissue, chosen uniformly; all if there are few.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hemisphere: Hemisphere
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    length_mm: float
    own_shape: _Triple
    start: _Triple
    size: _Triple
    centres: list[int] = Field(min_length=1)

    def grid(self, first: Sequence[int], size: Sequence[int]) -> NetworkGrid:
        """Return a part of the network's grid that begins `first` voxels into the box."""
        frame = HemisphereFrame(self.hemisphere, self.origin, self.spacing, self.length_mm)
        x, y, z = (s + f for s, f in zip(self.start, first, strict=True))
        width, depth, height = size
        return NetworkGrid(frame, self.own_shape, (x, y, z), (width, depth, height))


def cache_root() -> Path:
    """Return the folder for all that is kept: what `NAPARI_PCS_CACHE` names, else the user's cache folder."""
    chosen = os.environ.get(FOLDER, "").strip()
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("napari-pcs", appauthor=False)


def default_cache() -> Path:
    """Return the folder for stored hemispheres."""
    return cache_root() / "hemispheres"


@dataclass
class HemisphereCache:
    """Stored hemispheres in one folder, which processes may share: entries appear in full or not at all.

    Attributes
    ----------
    folder
        Made when the first entry is written. Where it refuses, hemispheres are brought onto the grid
        at every use, which is slow, and a warning is logged once.
    """

    folder: Path
    _warned: bool = field(default=False, repr=False)

    def placed(self, files: Sequence[str], hemisphere: Hemisphere, load: Callable[[], Volume]) -> tuple[Placed, Planes]:
        """Return where a hemisphere lies, and its voxels to be read.

        Parameters
        ----------
        files
            What it is made from.
        hemisphere
            Side.
        load
            Reads its tissue map (0, 1 grey, 2 white); called if there is no sound entry.

        Raises
        ------
        InputError
            If it cannot be read, or is not a hemisphere.
        """
        stem = self.entry(files, hemisphere)
        voxels, description = stem.with_suffix(".npy"), stem.with_suffix(".json")
        if (placed := _read(description)) is not None and (planes := Planes.of(voxels, placed.size)) is not None:
            return placed, planes
        placed, data = _place(load(), hemisphere)
        self._store(voxels, description, placed, data)
        return placed, Planes(data)

    def entry(self, files: Sequence[str], hemisphere: Hemisphere) -> Path:
        """Return the path of an entry, without the suffixes of its two files (.npy, .json).

        Raises
        ------
        InputError
            If a file is not there.
        """
        return self.folder / _digest(files, hemisphere)

    def usage(self) -> tuple[int, int]:
        """Return how many hemispheres are stored, and the bytes of their files."""
        sizes = {path: _size(path) for path in self._files()}
        return sum(path.suffix == ".json" for path in sizes), sum(sizes.values())

    def clear(self) -> int:
        """Remove all entries; return the bytes that were freed. A run that reads one of them ends.

        Raises
        ------
        SessionError
            If the folder cannot be changed.
        """
        freed = 0
        for path in self._files():
            size = _size(path)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise refused(path, error) from error
            freed += size
        return freed

    def _files(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if path.suffix in {".npy", ".json"}]
        except OSError:
            return []

    def _store(self, voxels: Path, description: Path, placed: Placed, data: NDArray[np.uint8]) -> None:
        stream = io.BytesIO()
        np.save(stream, data, allow_pickle=False)
        try:
            write_together({voxels: stream.getvalue(), description: placed.model_dump_json().encode()})
        except SessionError as error:
            if not self._warned:
                _log.warning("Hemispheres are not kept and are prepared at every use, which is slow. %s", error)
            self._warned = True


@dataclass(frozen=True)
class Planes:
    """Voxels of a stored hemisphere: in memory, or in a file of which x planes are read."""

    source: NDArray[np.uint8] | Path
    size: _Triple | None = None
    offset: int = 0

    @classmethod
    def of(cls, path: Path, size: _Triple) -> Planes | None:
        """Return the voxels of a file, None if it is not there, truncated or of another shape."""
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            sound = mapped.shape == size and mapped.dtype == np.uint8 and mapped.flags.c_contiguous
            return cls(path, size, mapped.offset) if sound else None
        except (OSError, ValueError, EOFError):
            return None

    def read(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the planes first <= x < last.

        A mapped file that another process cuts short would kill this one; a short read is an error.

        Raises
        ------
        InputError
            If the file has changed since it was opened.
        """
        if isinstance(self.source, np.ndarray):
            return self.source[first:last]
        assert self.size is not None  # noqa: S101  see `of`
        _, depth, height = self.size
        count = (last - first) * depth * height
        try:
            planes = np.fromfile(self.source, np.uint8, count, offset=self.offset + first * depth * height)
        except OSError:
            planes = np.empty(0, np.uint8)
        if planes.size != count:
            raise InputError(
                found="a stored hemisphere that was removed or cut short while it was read",
                expected=f"{count} bytes",
                advice="Give each run that deletes its cache a cache folder of its own.",
                path=self.source,
            )
        return planes.reshape(last - first, depth, height)


def _digest(files: Sequence[str], hemisphere: Hemisphere) -> str:
    described = [f"{_FORMAT} {hemisphere.value}"]
    for name in files:
        path = Path(name)
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(
                found=f"no file that can be read ({error.strerror})", expected="a tissue map", path=path
            ) from error
        described.append(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return hashlib.sha256("\0".join(described).encode()).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # removed meanwhile


def _read(path: Path) -> Placed | None:
    try:
        return Placed.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _place(tissue: Volume, hemisphere: Hemisphere) -> tuple[Placed, NDArray[np.uint8]]:
    try:
        image, grid = on_grid(tissue, hemisphere)
    except InputError as error:
        raise error.at(tissue.path) if tissue.path else error from None
    data = np.round(image * STEPS).astype(np.uint8)
    inside = np.flatnonzero(data)
    if len(inside) > _CENTRES:
        inside = np.sort(np.random.default_rng(0).choice(inside, _CENTRES, replace=False))
    frame = grid.frame
    return Placed(
        hemisphere=hemisphere,
        origin=frame.origin,
        spacing=frame.spacing,
        length_mm=frame.length_mm,
        own_shape=grid.shape,
        start=grid.start,
        size=grid.size,
        centres=inside.tolist(),
    ), np.ascontiguousarray(data)
