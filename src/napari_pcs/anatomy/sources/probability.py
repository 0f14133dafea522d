"""Two files that say how probable grey and white matter are: SPM, FSL FAST, fMRIPrep, or named GM and WM."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from napari_pcs.anatomy.checks import MIN_ASYMMETRY, asymmetry, check_same_subject
from napari_pcs.anatomy.halves import split
from napari_pcs.anatomy.landmarks import commissures_in_file
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources.base import Source
from napari_pcs.anatomy.sources.tissue_map import named_side
from napari_pcs.anatomy.tissue import GREY, WHITE
from napari_pcs.bids import parse_key
from napari_pcs.case import Case
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_pcs.stop import StopToken

__all__ = ["ProbabilityPair", "from_probabilities", "named_pair"]

_TOLERANCE = 0.02
"""Rounding of two maps stored as bytes."""
_TISSUE = 0.5


class _Naming(NamedTuple):
    """How a program names the two files: what is matched, and what stands in its place for grey and for white."""

    pattern: re.Pattern[str]
    grey: str
    white: str


_NAMINGS = (
    _Naming(re.compile(r"(?<=label-)(?:GM|WM)(?=_probseg)"), "GM", "WM"),
    _Naming(re.compile(r"(?<=_pve_)[12](?=\.)"), "1", "2"),
    _Naming(re.compile(r"(?:(?<=^c)|(?<=^wc)|(?<=^rc))[12](?!\d)"), "1", "2"),
    _Naming(re.compile(r"(?<![A-Za-z])(?:GM|WM)(?![A-Za-z])"), "GM", "WM"),
    _Naming(re.compile(r"(?<![A-Za-z])(?:gm|wm)(?![A-Za-z])"), "gm", "wm"),
)
_LABEL = re.compile(r"_?label-(?:GM|WM)|_pve_[12](?=\.)|^[wr]?c[12](?!\d)|_?(?<![A-Za-z])(?:GM|WM|gm|wm)(?![A-Za-z])")


@dataclass(frozen=True)
class ProbabilityPair(Source):
    """Probabilities of grey (`path`) and of white matter (`white`)."""

    kind: ClassVar[str] = "probabilities of grey and white matter"

    white: Path = Path()
    whole: bool = False
    """Both hemispheres in one map."""

    @classmethod
    def find(cls, path: Path) -> tuple[Source, ...]:
        """Recognise either file of a pair, or a folder of pairs; see `Source.find`."""
        if path.is_dir():
            grey = sorted(
                {pair[0] for p in _images(path) if (pair := named_pair(p)) and all(q.is_file() for q in pair)}
            )
            return tuple(found for p in grey if (found := _source(p)) is not None)
        found = _source(path) if path.is_file() else None
        return () if found is None else (found,)

    def load(self, hemispheres: tuple[Hemisphere, ...], stop: StopToken) -> Iterator[Step | Case]:
        """Read both files; see `Source.load`."""
        yield Step(f"Reading {self.path.name} and {self.white.name}", 0.0)
        grey = Volume.read(self.path)
        tissue = from_probabilities(grey, Volume.read(self.white))
        halves = dict.fromkeys(Hemisphere, tissue)
        if self.whole:
            yield Step("Telling the hemispheres apart", 0.3)
            halves = split(tissue, stop)
        for side in hemispheres:
            yield Case(self.key(side), halves[side], halves[side], commissures=commissures_in_file(grey))


def from_probabilities(grey: Volume, white: Volume) -> Volume:
    """Return the tissue map of two probability maps: the likelier tissue where their sum exceeds one half.

    Raises
    ------
    InputError
        If they lie on different grids, or are not probabilities of exclusive tissues.
    """
    check_same_subject(grey, white)
    for volume in (grey, white):
        low, high = float(volume.data.min()), float(volume.data.max())
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            raise InputError(
                found=f"values from {low:.4g} to {high:.4g}",
                expected="probabilities from 0 to 1",
                advice="Modulated or rescaled maps cannot be used; give those in native space.",
                path=volume.path,
            )
    total = grey.data + white.data
    if total.max() > 1 + _TOLERANCE:
        raise InputError(
            found=f"grey and white probabilities that add up to {total.max():.2f}",
            expected="at most 1",
            advice=f"{white.path.name if white.path else 'The other map'} may belong to another subject or program.",
            path=grey.path,
        )
    data = np.where(total > _TISSUE, np.where(white.data > grey.data, WHITE, GREY), 0).astype(np.uint8)
    return replace(grey, data=data)


def named_pair(path: Path) -> tuple[Path, Path] | None:
    """Return the grey and the white file that a name belongs to."""
    for naming in _NAMINGS:
        if naming.pattern.search(path.name):
            grey, white = (
                path.with_name(naming.pattern.sub(t, path.name, count=1)) for t in (naming.grey, naming.white)
            )
            return grey, white
    return None


def _source(path: Path) -> ProbabilityPair | None:
    pair = named_pair(path)
    if pair is None or not _is_probability(path):
        return None
    grey, white = pair
    missing = [p for p in pair if not p.is_file()]
    if missing:
        raise InputError(
            found="one map of probabilities alone",
            expected=f"{missing[0].name} beside it",
            advice="Put the maps of grey and of white matter into one folder.",
            path=path,
        )
    side = named_side(path)
    key = parse_key(_LABEL.sub("", grey.name, count=1), side or Hemisphere.LEFT)
    if side is not None:
        return ProbabilityPair(grey, key.subject, key.session, (side,), white)
    tissue = from_probabilities(Volume.read(grey), Volume.read(white))
    if not tissue.data.any():
        raise InputError(found="no voxel that is probably grey or white", expected="a brain", path=grey)
    whole = abs(asymmetry(tissue.data > 0, tissue.spacing)) < MIN_ASYMMETRY
    return ProbabilityPair(grey, key.subject, key.session, tuple(Hemisphere) if whole else (), white, whole)


def _is_probability(path: Path) -> bool:
    """Say whether an image holds fractions between 0 and 1."""
    data: NDArray[np.floating] = Volume.read(path).data
    if data.dtype.kind != "f":
        return False
    return bool(data.min() >= -_TOLERANCE and data.max() <= 1 + _TOLERANCE and ((data > 0) & (data < 1)).any())


def _images(folder: Path) -> list[Path]:
    """Return the images of a folder, its `anat` and its subjects' `anat` folders, in native space."""
    places = ("", "anat/", "ses-*/anat/", "sub-*/anat/", "sub-*/ses-*/anat/")
    return sorted(p for place in places for p in folder.glob(f"{place}*.nii*") if "space-" not in p.name)
