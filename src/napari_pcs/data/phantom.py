"""An analytic hemisphere: known folds, known lengths, and no files.

A flattened half-ellipsoid of white matter under 3 mm of grey, cut by sulci whose medial surfaces
are given by formulas, so that positions and lengths can be checked. The medial wall carries a
cingulate sulcus and, dorsal and parallel to it, a paracingulate sulcus of the length asked for.
The frontal pole is narrower than the occipital one and the lateral folds are uneven, so that a
flip in any direction shows.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_pcs.anatomy.tissue import GREY, WHITE
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole, LabelVolume
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.data.names import PCS_LENGTHS_MM
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere, Label
from napari_pcs.provenance import Provenance
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CINGULATE_RADIUS_MM", "PCS_RADIUS_MM", "phantom"]

SHAPE_MM = (74.0, 176.0, 124.0)
SEMI_AXES_MM = (62.0, 80.0, 50.0)
CENTRE_MM = (5.0, 88.0, 62.0)
"""Lateral distance from the medial face, then y and z, in the phantom's own millimetres."""
ARC_CENTRE_MM = (96.0, 48.0)
"""Centre (y, z) of the arcs that the medial sulci follow."""
CINGULATE_RADIUS_MM = 34.0
PCS_RADIUS_MM = 45.0
CINGULATE_ARC_DEG = (5.0, 115.0)
PCS_START_DEG = 35.0
MEDIAL_DEPTH_MM = 10.0
GREY_MM = 3.0
HALF_WIDTH_MM = 0.6
"""Half of the fluid between two banks."""


class _Fold(NamedTuple):
    """Sheet from the surface inwards: signed distance from it, where it exists, and its label."""

    distance: NDArray[np.float64]
    extent: NDArray[np.bool_]
    label: Label


def phantom(
    hemisphere: Hemisphere = Hemisphere.LEFT, *, pcs_length_mm: float = 60.0, spacing_mm: float = 1.0, seed: int = 0
) -> Case:
    """Build a phantom hemisphere with its reference labels.

    Parameters
    ----------
    hemisphere
        A right hemisphere is the mirror image of the left one with the same seed.
    pcs_length_mm
        Length of the PCS along its arc, 0 to 60 mm; 0 means absent.
    spacing_mm
        Isotropic voxel size.
    seed
        Places the lateral folds and varies their depth.

    Returns
    -------
    Case
        With the tissue map (0, 1 grey, 2 white) and the reference labels.

    Raises
    ------
    InputError
        If the length does not fit on the arc.
    """
    if not 0 <= pcs_length_mm <= max(PCS_LENGTHS_MM):
        raise InputError(found=f"a PCS of {pcs_length_mm:g} mm", expected="0 to 60 mm")
    lateral, y, z = _coordinates(spacing_mm)
    body = _depth(lateral, y, z)
    folds = [*_medial_folds(lateral, y, z, pcs_length_mm), *_lateral_folds(lateral, y, z, body, seed)]
    sulcal = np.full(body.shape, np.inf)
    for fold in folds:
        sulcal = np.minimum(sulcal, np.where(fold.extent, np.abs(fold.distance), np.inf))
    inside = body > 0
    tissue = np.zeros(body.shape, dtype=np.uint8)
    tissue[inside] = WHITE
    tissue[inside & ((body < GREY_MM) | (sulcal < HALF_WIDTH_MM + GREY_MM))] = GREY
    tissue[sulcal < HALF_WIDTH_MM] = 0
    labels = np.zeros(body.shape, dtype=np.uint8)
    for fold in sorted(folds, key=lambda fold: fold.label):
        labels[inside & fold.extent & (np.abs(fold.distance) <= spacing_mm / 2)] = fold.label
    return _case(tissue, labels, hemisphere, pcs_length_mm, spacing_mm)


def _coordinates(spacing: float) -> tuple[NDArray[np.float64], ...]:
    """Lateral, y and z mm of every voxel; the first axis runs from the midline outwards."""
    lines = [np.arange(round(n / spacing)) * spacing for n in SHAPE_MM]
    return tuple(np.meshgrid(*lines, indexing="ij"))


def _depth(lateral: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Approximate depth in mm below the surface of the hemisphere; negative outside."""
    dx, dy, dz = lateral - CENTRE_MM[0], y - CENTRE_MM[1], z - CENTRE_MM[2]
    width = SEMI_AXES_MM[0] * (1 - 0.18 * dy / SEMI_AXES_MM[1])
    radius = np.sqrt((dx / width) ** 2 + (dy / SEMI_AXES_MM[1]) ** 2 + (dz / SEMI_AXES_MM[2]) ** 2)
    gradient = np.sqrt((dx / width**2) ** 2 + (dy / SEMI_AXES_MM[1] ** 2) ** 2 + (dz / SEMI_AXES_MM[2] ** 2) ** 2)
    shell = (1 - radius) * radius / np.maximum(gradient, 1e-6)
    return np.asarray(np.minimum(shell, dx))


def _medial_folds(
    lateral: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], pcs_length: float
) -> list[_Fold]:
    dy, dz = y - ARC_CENTRE_MM[0], z - ARC_CENTRE_MM[1]
    radius, angle = np.hypot(dy, dz), np.degrees(np.arctan2(dz, dy))
    shallow = (lateral >= CENTRE_MM[0]) & (lateral < CENTRE_MM[0] + MEDIAL_DEPTH_MM)

    def arc(r: float, start: float, stop: float, label: Label) -> _Fold:
        return _Fold(radius - r, shallow & (angle >= start) & (angle < stop), label)

    folds = [arc(CINGULATE_RADIUS_MM, *CINGULATE_ARC_DEG, Label.SKELETON)]
    if pcs_length > 0:
        stop = PCS_START_DEG + np.degrees(pcs_length / PCS_RADIUS_MM)
        folds.append(arc(PCS_RADIUS_MM, PCS_START_DEG, stop, Label.PCS))
    return folds


def _lateral_folds(
    lateral: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    body: NDArray[np.float64],
    seed: int,
) -> list[_Fold]:
    """Coronal and axial folds of the convexity, unevenly spaced; the seed moves them by up to 2 mm."""
    rng = np.random.default_rng(seed)
    convex = lateral > CENTRE_MM[0] + MEDIAL_DEPTH_MM + 12
    folds = []
    for position in (34.0, 62.0, 84.0, 118.0):
        where, depth = position + rng.uniform(-2, 2), rng.uniform(9, 13)
        bend = 3 * np.sin(z / 14)
        folds.append(_Fold(y - where - bend, convex & (z > 52) & (body < depth) & (body > 0), Label.SKELETON))
    for position in (36.0, 46.0):
        where, depth = position + rng.uniform(-1, 1), rng.uniform(8, 11)
        folds.append(_Fold(z - where, convex & (y > 40) & (y < 130) & (body < depth) & (body > 0), Label.SKELETON))
    return folds


def _case(
    tissue: NDArray[np.uint8], labels: NDArray[np.uint8], hemisphere: Hemisphere, pcs_length: float, spacing: float
) -> Case:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[1, 3], affine[2, 3] = -88.0, -62.0
    if hemisphere is Hemisphere.LEFT:
        tissue, labels = tissue[::-1], labels[::-1]
        affine[0, 3] = -(tissue.shape[0] - 1) * spacing + CENTRE_MM[0]
    else:
        affine[0, 3] = -CENTRE_MM[0]
    volume = Volume.from_array(tissue, affine)
    provenance = Provenance(
        manual=False, hemisphere=hemisphere.value, description=f"Analytic phantom with a PCS of {pcs_length:g} mm."
    )
    reference = LabelVolume(np.ascontiguousarray(labels), provenance)
    key = CaseKey(f"phantom{pcs_length:g}mm", "", hemisphere)
    commissures = Commissures.from_points((0, 0, 0), (0, -25, 0), FrameSource.WORLD, "made so")
    return Case(key, volume, volume, MappingProxyType({LabelRole.REFERENCE: reference}), commissures)
