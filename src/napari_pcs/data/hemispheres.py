"""Patches of many hemispheres, with memory that does not grow with their number."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from napari_pcs.anatomy.checks import check_side
from napari_pcs.anatomy.sources import find_sources
from napari_pcs.anatomy.sources.t1w import T1Scan
from napari_pcs.case import Case
from napari_pcs.data.cache import STEPS, HemisphereCache, default_cache
from napari_pcs.data.listing import find_hemispheres, listed_source
from napari_pcs.data.patch import Patch
from napari_pcs.errors import InputError
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_pcs.data.listing import Listed
    from napari_pcs.volume import Volume

__all__ = ["Hemispheres", "open_hemispheres"]

_EXPECTED = (
    "grey/white or tissue maps named with their side (sub-01_hemi-L_gw.nii.gz, Lgrey_white_01.nii.gz), FreeSurfer"
    " subjects, pairs of probability maps, or a session of napari-pcs"
)
_PREPARE = "Segment T1 scans first: napari-pcs prepare SCANS --session FOLDER; then give that session."
_HEADERS = 500
_JITTER = 8
"""A patch is centred within this part of its side of a voxel of tissue."""


def open_hemispheres(path: Path, cache: Path | None = None) -> Hemispheres:
    """List the hemispheres of a folder, a session, a subject or a file.

    A folder is listed by names alone; what a file holds shows when a patch is first drawn from it.

    Parameters
    ----------
    path
        Folder, searched with all that is below it, or one file.
    cache
        Where hemispheres are kept on the network's grid (about 2 MB each); in the user's cache
        folder if None.

    Raises
    ------
    InputError
        If there is no hemisphere, or `path` is one file that is not understood.
    """
    notes: tuple[str, ...] = ()
    if not path.exists():
        raise InputError(found="no such file or folder", expected=_EXPECTED, path=path)
    if path.is_dir():
        listed, left_out, scans = find_hemispheres(path)
        if not listed:
            found = f"{scans} T1 scans and no tissue map" if scans else "a folder without tissue maps"
            raise InputError(found=found, expected=_EXPECTED, advice=_PREPARE if scans else "", path=path)
        if left_out:
            notes = (f"{_count(left_out, 'image')} left out, because others say that they are grey/white maps.",)
    else:
        sources = find_sources(path)
        _refuse_scans(sources[0], path)
        listed = listed_source(sources[0])
    return Hemispheres(listed, HemisphereCache(cache or default_cache()), notes)


class Hemispheres:
    """Hemispheres on disk; see `PatchSource`.

    Parameters
    ----------
    listed
        At least one.
    cache
        Where they are kept on the network's grid.
    notes
        What the user should know of how they were found.
    """

    spatial_dims = 3
    channels = 1

    def __init__(self, listed: Sequence[Listed], cache: HemisphereCache, notes: tuple[str, ...] = ()) -> None:
        self._listed, self._cache, self._notes = tuple(listed), cache, notes

    @cached_property
    def names(self) -> Sequence[str]:
        """Subject, session and side of each, or its file's name."""
        return tuple(one.name for one in self._listed)

    @cached_property
    def people(self) -> Sequence[str]:
        """Subject of each."""
        return tuple(one.person for one in self._listed)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names and sizes in bytes, in the order of the names."""
        described = [f"{one.name} {' '.join(map(_size, one.files))}" for one in self._listed]
        return hashlib.sha256("\n".join(described).encode()).hexdigest()

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: what was left out, mixed voxel sizes, too few people to hold any out."""
        people, n = len(set(self.people)), len(self._listed)
        alone = (f"{_count(n, 'hemisphere')} of 1 person: nothing is held out.",) if people == 1 else ()
        return (*self._notes, *_spacing_note(self._listed), *alone)

    def draw(self, index: int, size: tuple[int, ...], rng: np.random.Generator) -> Patch:
        """Draw a patch near a voxel of tissue; 0 where the hemisphere is smaller than the patch.

        Raises
        ------
        InputError
            If the hemisphere cannot be read, or is not what its name says.
        """
        one = self._listed[index]
        side = one.hemisphere
        if side is None:
            raise InputError(
                found="a name that does not say which hemisphere it is",
                expected="hemi-L or hemi-R in the name",
                advice="Rename the file.",
                path=one.files[0],
            )
        placed, planes = self._cache.placed(one.files, side, lambda: _tissue(one))
        first = _first(placed.centres, placed.size, size, rng)
        ends = [(max(f, 0), min(f + s, n)) for f, s, n in zip(first, size, placed.size, strict=True)]
        _, y, z = (slice(*end) for end in ends)
        image = np.zeros((1, *size), np.float32)
        within = tuple(slice(low - f, high - f) for (low, high), f in zip(ends, first, strict=True))
        image[0][within] = planes.read(*ends[0])[:, y, z] / np.float32(STEPS)
        return Patch(image, placed.grid(first, size).position(), one.name)


def _first(
    centres: Sequence[int], box: tuple[int, int, int], size: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, ...]:
    """Choose the first voxel of a patch in the box: inside it, or around it where it is smaller."""
    centre = np.array(np.unravel_index(centres[int(rng.integers(len(centres)))], box))
    reach = np.asarray(size) // _JITTER
    wanted = centre - np.asarray(size) // 2 + rng.integers(-reach, reach + 1)
    room = np.asarray(box) - size
    return tuple(int(v) for v in np.clip(wanted, np.minimum(room, 0), np.maximum(room, 0)))


def _tissue(one: Listed) -> Volume:
    """Read the tissue map of one hemisphere and check that it is one."""
    path, side = Path(one.files[0]), one.hemisphere
    assert side is not None  # noqa: S101  see `Hemispheres.draw`
    source = one.source or find_sources(path, side)[0]
    _refuse_scans(source, path)
    case = next(event for event in source.load((side,), StopToken()) if isinstance(event, Case))
    check_side(case.tissue, side)
    return case.tissue


def _refuse_scans(source: object, path: Path) -> None:
    if isinstance(source, T1Scan):
        raise InputError(found="a T1 scan", expected="a tissue map", advice=_PREPARE, path=path)


def _size(name: str) -> str:
    try:
        return str(Path(name).stat().st_size)
    except OSError:
        return "missing"


def _spacing_note(listed: Sequence[Listed]) -> tuple[str, ...]:
    """Say which voxel sizes there are, if they are not all 1 mm, from at most `_HEADERS` headers."""
    looked = np.unique(np.linspace(0, len(listed) - 1, min(len(listed), _HEADERS)).round().astype(int))
    sizes = Counter(size for i in looked if (size := _voxel(listed[i].files[0])) is not None)
    if not sizes or set(sizes) == {"1 mm"}:
        return ()
    parts = [f"{_count(n, 'hemisphere') if i == 0 else n} of {s}" for i, (s, n) in enumerate(sorted(sizes.items()))]
    text = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    among = f" (of {len(looked)} looked at among {len(listed)})" if len(looked) < len(listed) else ""
    return (f"{text}{among}: all are brought to 1 mm.",)


def _voxel(name: str) -> str | None:
    """Return the voxel size that a header gives, None if it cannot be read; drawing will say why."""
    try:
        zooms: NDArray[np.floating] = np.asarray(nib.load(name).header.get_zooms()[:3], float)
    except Exception:  # noqa: BLE001  nibabel raises what the damaged bytes bring about
        return None
    shown = [f"{round(z, 2):g}" for z in zooms]
    return f"{shown[0] if len(set(shown)) == 1 else ' x '.join(shown)} mm"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
