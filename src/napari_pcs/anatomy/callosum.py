"""The outer outline of the corpus callosum in one hemisphere: what the medial sulci are arcs about."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ArcCoordinates", "arc_coordinates"]

CENTRE_MM = (2.0, 4.0)
"""Point (y, z) in MNI152 about which the callosum and the sulci around it are arcs."""
_FIRST_DEG, _LAST_DEG = -60, 190
_MIDLINE_MM = 5.0
_BOX_MM = ((-50.0, 42.0), (-12.0, 40.0))
"""Where in y and z the white matter at the midline is the callosum's."""
_WINDOW_DEG = 2.0
_OUTERMOST = 97
_SMOOTHING_DEG = 9
_MIN_ANGLES = 100


class ArcCoordinates(NamedTuple):
    """Polar coordinates of n points about the callosum.

    Attributes
    ----------
    angle
        (n,) degrees: 0 is anterior, 90 superior, 180 posterior.
    radius
        (n,) mm of MNI152 from the centre.
    gap
        (n,) mm of MNI152 outwards from the outline of this person's callosum.
    """

    angle: NDArray[np.float64]
    radius: NDArray[np.float64]
    gap: NDArray[np.float64]


def arc_coordinates(
    white: NDArray[np.bool_], to_mni: NDArray[np.floating], points_mm: NDArray[np.floating]
) -> ArcCoordinates:
    """Return where points lie around the callosum.

    Parameters
    ----------
    white
        White matter of the hemisphere, axes (x, y, z).
    to_mni
        (4, 4): its voxel indices to MNI152 mm.
    points_mm
        (n, 3) in MNI152 mm.

    Raises
    ------
    InputError
        If there is no callosum where it should be.
    """
    angles, outline = _outline(white, to_mni)
    angle, radius = _polar(points_mm)
    return ArcCoordinates(angle, radius, radius - np.interp(angle, angles, outline))


def _polar(points_mm: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    dy, dz = points_mm[:, 1] - CENTRE_MM[0], points_mm[:, 2] - CENTRE_MM[1]
    return np.degrees(np.arctan2(dz, dy)), np.hypot(dy, dz)


def _outline(white: NDArray[np.bool_], to_mni: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outer radius of the callosum at every degree at which the midline has white matter."""
    index = np.argwhere(white)
    mm = index @ to_mni[:3, :3].T + to_mni[:3, 3]
    inside = np.abs(mm[:, 0]) < _MIDLINE_MM
    for axis, (low, high) in enumerate(_BOX_MM, 1):
        inside &= (mm[:, axis] > low) & (mm[:, axis] < high)
    mask = np.zeros_like(white)
    mask[tuple(index[inside].T)] = True
    labels, n = ndimage.label(mask)
    angles = np.arange(_FIRST_DEG, _LAST_DEG, dtype=np.float64)
    if n == 0:
        raise _missing(0)
    body = labels[tuple(index[inside].T)] == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    angle, radius = _polar(mm[inside][body])
    near = [radius[np.abs(angle - a) < _WINDOW_DEG] for a in angles]
    known = np.array([len(r) > 3 for r in near])
    if known.sum() < _MIN_ANGLES:
        raise _missing(int(known.sum()))
    outer = np.array([np.percentile(r, _OUTERMOST) for r, k in zip(near, known, strict=True) if k])
    everywhere = np.interp(angles, angles[known], outer)
    return angles, ndimage.median_filter(everywhere, _SMOOTHING_DEG, mode="nearest")


def _missing(degrees: int) -> InputError:
    return InputError(
        found=f"white matter at the midline over {degrees} degrees around the place of the corpus callosum",
        expected=f"a callosum over at least {_MIN_ANGLES}",
        advice="Look at AC, PC and the medial side of the tissue map.",
    )
