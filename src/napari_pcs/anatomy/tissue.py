"""Recognise what kind of tissue map a volume is, by its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_pcs.volume import Volume

__all__ = ["GREY", "KINDS", "RIBBON", "WHITE", "TissueKind", "few_values", "recognise"]

GREY, WHITE = 1, 2
_MAX_VALUES = 64


class TissueKind(NamedTuple):
    """A convention for grey/white maps: its name and which values mean which tissue."""

    name: str
    grey: Mapping[Hemisphere, int]
    white: Mapping[Hemisphere, int]
    values: frozenset[int]


_BOTH = tuple(Hemisphere)
KINDS = (
    TissueKind(
        "grey/white map (100, 200)", dict.fromkeys(_BOTH, 100), dict.fromkeys(_BOTH, 200), frozenset({0, 100, 200})
    ),
    TissueKind(
        "FreeSurfer ribbon (2, 3, 41, 42)",
        {Hemisphere.LEFT: 3, Hemisphere.RIGHT: 42},
        {Hemisphere.LEFT: 2, Hemisphere.RIGHT: 41},
        frozenset({0, 2, 3, 41, 42}),
    ),
    TissueKind(
        "tissue map (1 fluid, 2 grey, 3 white)",
        dict.fromkeys(_BOTH, 2),
        dict.fromkeys(_BOTH, 3),
        frozenset({0, 1, 2, 3}),
    ),
)
RIBBON = KINDS[1]


def recognise(volume: Volume, hemisphere: Hemisphere) -> tuple[NDArray[np.uint8], str]:
    """Return the tissue map of one hemisphere and the name of the convention it was in.

    Parameters
    ----------
    volume
        Grey/white map (100/200), FreeSurfer `ribbon`, or 0/1/2/3 tissue map.
    hemisphere
        Side to take from a map that holds both.

    Returns
    -------
    tuple
        uint8 array, 0 outside and fluid, 1 grey, 2 white, axes as in `volume`; and the name.

    Raises
    ------
    InputError
        If the values fit none of these conventions, or one of the two tissues is missing.
    """
    values = few_values(volume)
    if values is None:
        raise _not_a_map(volume)
    if values == {0, 2, 3}:
        found = "only the values [0, 2, 3]: white and grey in a FreeSurfer ribbon, grey and white in a tissue map"
        raise InputError(found=found, expected=_EXPECTED, advice="Give the map of both hemispheres.", path=volume.path)
    for kind in KINDS:
        grey, white = kind.grey[hemisphere], kind.white[hemisphere]
        if values <= kind.values and {grey, white} <= values:
            tissue = np.zeros(volume.shape, dtype=np.uint8)
            tissue[volume.data == grey] = GREY
            tissue[volume.data == white] = WHITE
            return tissue, kind.name
    if values <= {0, 1, 2}:
        found = f"only the values {sorted(values)}, which may be a label map as well as a tissue map"
    else:
        found = "an image with the values " + ", ".join(str(v) for v in sorted(values)[:8])
    raise InputError(
        found=found, expected=_EXPECTED, advice=f"The {_SIDE[hemisphere]} hemisphere was asked for.", path=volume.path
    )


_EXPECTED = " or ".join(kind.name for kind in KINDS) + ", with both grey and white matter"
_SIDE = {Hemisphere.LEFT: "left", Hemisphere.RIGHT: "right"}


def few_values(volume: Volume) -> set[int] | None:
    """Return the values of a map, or None if it has so many, or such between integers, that it is an image."""
    values = np.unique(volume.data)
    if len(values) > _MAX_VALUES or not np.array_equal(values, np.round(values)):
        return None
    return {int(v) for v in values}


def _not_a_map(volume: Volume) -> InputError:
    values = np.unique(volume.data)
    return InputError(
        found=f"an image with {len(values)} different values ({values[0]:.4g} to {values[-1]:.4g})",
        expected=_EXPECTED,
        advice="A T1 scan must be segmented first; it can be given as the image to show.",
        path=volume.path,
    )
