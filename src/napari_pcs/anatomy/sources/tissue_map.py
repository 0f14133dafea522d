"""A single file that says which voxels are grey and white matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from napari_pcs.anatomy.checks import MIN_ASYMMETRY, asymmetry, check_order
from napari_pcs.anatomy.halves import split
from napari_pcs.anatomy.landmarks import commissures_in_file
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources.base import Source
from napari_pcs.anatomy.tissue import KINDS, RIBBON, TissueKind, few_values, recognise
from napari_pcs.bids import CaseKey, parse_key
from napari_pcs.case import Case, is_morphologist_skeleton
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_pcs.stop import StopToken

__all__ = ["FluidGreyWhiteMap", "GreyWhiteMap", "RibbonMap", "TissueMap", "case_of", "named_side"]


@dataclass(frozen=True)
class TissueMap(Source):
    """A grey/white map in one of the conventions of `napari_pcs.anatomy.tissue`."""

    whole: bool = False
    """Both hemispheres in one map whose values do not tell them apart."""

    @classmethod
    def find(cls, path: Path) -> tuple[Source, ...]:
        """Recognise a map by its values; see `Source.find`."""
        if not path.is_file():
            return ()
        volume = Volume.read(path)
        convention = convention_of(volume)
        return () if convention is None else (_source(volume, path, convention),)

    def load(self, hemispheres: tuple[Hemisphere, ...], stop: StopToken) -> Iterator[Step | Case]:
        """Read the map; see `Source.load`."""
        yield Step(f"Reading {self.path.name}", 0.0)
        volume = Volume.read(self.path)
        if self.whole:
            yield Step("Telling the hemispheres apart", 0.3)
            tissue = volume.with_data(recognise(volume, Hemisphere.LEFT)[0])
            halves = split(replace(tissue, path=self.path), stop)
            for side in hemispheres:
                yield Case(self.key(side), halves[side], halves[side], commissures=commissures_in_file(volume))
            return
        if len(self.hemispheres) > 1:
            left, right = (recognise(volume, side)[0] > 0 for side in Hemisphere)
            check_order(left, right, self.path)
        for side in hemispheres:
            yield case_of(volume, self.key(side))[0]


class GreyWhiteMap(TissueMap):
    """100 grey, 200 white."""

    kind: ClassVar[str] = KINDS[0].name


class RibbonMap(TissueMap):
    """FreeSurfer's ribbon, given without its subject's folder."""

    kind: ClassVar[str] = KINDS[1].name


class FluidGreyWhiteMap(TissueMap):
    """1 fluid, 2 grey, 3 white."""

    kind: ClassVar[str] = KINDS[2].name


_CLASSES: dict[str, type[TissueMap]] = {c.kind: c for c in (GreyWhiteMap, RibbonMap, FluidGreyWhiteMap)}


def case_of(volume: Volume, key: CaseKey) -> tuple[Case, str]:
    """Return one hemisphere of a tissue map that was read, and the name of the convention it is in.

    Raises
    ------
    InputError
        If the map is in no known convention, or one of its two tissues is missing.
    """
    data, kind = recognise(volume, key.hemisphere)
    # The recognised map keeps the path: it is the same hemisphere in another coding.
    tissue = replace(volume, data=data)
    return Case(key, tissue, tissue, commissures=commissures_in_file(volume)), kind


def convention_of(volume: Volume) -> TissueKind | None:
    """Return the convention of a map's values, None for an image with many values or a skeleton.

    Raises
    ------
    InputError
        If there are few values, but they are not those of a tissue map.
    """
    values = few_values(volume)
    if values is None or is_morphologist_skeleton(np.array(sorted(values))):
        return None
    if values > RIBBON.values:
        raise InputError(
            found=f"{len(values)} labels, white matter and cortex of both hemispheres (2, 3, 41, 42) among them",
            expected="a tissue map",
            advice="It looks like FreeSurfer's aseg: give the subject's folder, not one file.",
            path=volume.path,
        )
    errors = []
    for side in Hemisphere:
        try:
            name = recognise(volume, side)[1]
        except InputError as error:
            errors.append(error)
        else:
            return next(kind for kind in KINDS if kind.name == name)
    raise errors[0]


def named_side(path: Path) -> Hemisphere | None:
    """Return the side that a file name says, if it does."""
    try:
        return parse_key(path).hemisphere
    except InputError:
        return None


def _source(volume: Volume, path: Path, convention: TissueKind) -> TissueMap:
    side = named_side(path)
    key = parse_key(path, side or Hemisphere.LEFT)
    build = _CLASSES[convention.name]
    if convention is RIBBON:
        values = few_values(volume) or set()
        held = tuple(s for s in Hemisphere if {convention.grey[s], convention.white[s]} <= values)
        if side in held:
            held = (side,)
        return build(path, key.subject, key.session, held)
    if side is not None:
        return build(path, key.subject, key.session, (side,))
    tissue = recognise(volume, Hemisphere.LEFT)[0] > 0
    whole = bool(np.abs(asymmetry(tissue, volume.spacing)) < MIN_ASYMMETRY)
    return build(path, key.subject, key.session, tuple(Hemisphere) if whole else (), whole)
