"""A proposal of the PCS without a network: which sheets of a skeleton lie where raters find it.

Position alone does not separate the PCS from the cingulate sulcus, whose frequency maps overlap;
the order of the folds outward from the corpus callosum does. A skeleton voxel is proposed where

- the PCS is frequent, and frequent compared with the cingulate sulcus,
- its sheet runs parallel to the corpus callosum, unlike the vertical rami, and
- another such sheet, where the cingulate sulcus is frequent, lies between it and the callosum.

The thresholds were set so that the proposals on 110 hemispheres reach 20 mm about as often as
raters find a PCS in another sample (75 % left, 62 % right, against 77 and 57 %), with medians of
43 mm, longer than the raters' 35 and 36 mm. A proposal is a weak label: no one has looked at it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Frequencies", "propose_pcs"]

MIN_PCS_FREQUENCY = 0.25
MIN_PCS_SHARE = 0.5
CINGULATE_WEIGHT = 0.8
MIN_PARALLEL = 0.6
MIN_INNER_FREQUENCY = 0.4
INNER_GAP_MM = (5, 18)
"""Distance towards the callosum in which the cingulate sheet is looked for."""
MIN_VOXELS = 40
_CALLOSUM = (2.0, 4.0)
"""Point (y, z) in MNI mm about which the callosum and the sulci around it are arcs."""
_NORMAL_RADIUS_MM = 4.0
_CUBE = np.ones((3, 3, 3), dtype=bool)


class Frequencies(NamedTuple):
    """How often raters found each sulcus at the voxels of a skeleton, as a share of the map's maximum.

    Attributes
    ----------
    pcs, cingulate
        1-D arrays in [0, 1], one value a skeleton voxel in C order.
    """

    pcs: NDArray[np.floating]
    cingulate: NDArray[np.floating]


def propose_pcs(skeleton: NDArray[np.bool_], mni_mm: NDArray[np.floating], frequency: Frequencies) -> NDArray[np.bool_]:
    """Mark the part of a skeleton that is probably PCS.

    Parameters
    ----------
    skeleton
        Boolean volume, axes (x, y, z).
    mni_mm
        (n, 3): MNI coordinates of the skeleton's voxels, in C order.
    frequency
        Of PCS and cingulate sulcus at these voxels.

    Returns
    -------
    numpy.ndarray
        Boolean volume, a subset of the skeleton.
    """
    near = _medial_frontal(mni_mm)
    index, points = np.argwhere(skeleton)[near], mni_mm[near].astype(np.float64)
    pcs, cingulate = frequency.pcs[near], frequency.cingulate[near]
    outward = points[:, 1:] - _CALLOSUM
    radius = np.linalg.norm(outward, axis=1)
    parallel = np.abs((_normals(points)[:, 1:] * outward / radius[:, None]).sum(axis=1))
    inner = _inner_frequency(points, outward, radius, parallel, cingulate)
    chosen = (
        (pcs / (pcs + CINGULATE_WEIGHT * cingulate + 1e-3) > MIN_PCS_SHARE)
        & (pcs > MIN_PCS_FREQUENCY)
        & (parallel > MIN_PARALLEL)
        & (inner > MIN_INNER_FREQUENCY)
    )
    zone, seeds = np.zeros_like(skeleton), np.zeros_like(skeleton)
    zone[tuple(index.T)] = True
    seeds[tuple(index[chosen].T)] = True
    grown = ndimage.binary_dilation(seeds, _CUBE, mask=zone)
    pieces, _ = ndimage.label(grown, _CUBE)
    large = np.bincount(pieces.ravel()) >= MIN_VOXELS
    large[0] = False
    return np.asarray(large[pieces])


def _medial_frontal(mni_mm: NDArray[np.floating]) -> NDArray[np.bool_]:
    x, y, z = np.abs(mni_mm[:, 0]), mni_mm[:, 1], mni_mm[:, 2]
    return np.asarray((x < 18) & (y > -25) & (y < 75) & (z > -25) & (z < 85))


def _normals(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit normal of the sheet at every point, by a plane through its neighbours."""
    normals = np.tile([1.0, 0.0, 0.0], (len(points), 1))
    for i, members in enumerate(cKDTree(points).query_ball_point(points, _NORMAL_RADIUS_MM)):
        if len(members) >= 4:
            around = points[members] - points[members].mean(axis=0)
            normals[i] = np.linalg.svd(around, full_matrices=False)[2][-1]
    return normals


def _inner_frequency(
    points: NDArray[np.float64],
    outward: NDArray[np.float64],
    radius: NDArray[np.float64],
    parallel: NDArray[np.float64],
    cingulate: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Highest cingulate frequency of a parallel sheet between each point and the callosum.

    On a polar map about the callosum: 1 degree by 1 mm, looking 3 degrees to either side.
    """
    angle = np.clip((np.degrees(np.arctan2(outward[:, 1], outward[:, 0])) + 60).astype(int), 0, 189)
    ring = np.clip(radius.astype(int), 0, 119)
    sheet = (parallel > 0.5) & (np.abs(points[:, 0]) < 14) & (cingulate > 0.08) & (radius > 30)
    polar = np.zeros((190, 120))
    np.maximum.at(polar, (angle[sheet], ring[sheet]), cingulate[sheet])
    polar = ndimage.maximum_filter1d(polar, 7, axis=0)
    inner = np.zeros_like(polar)
    low, high = INNER_GAP_MM
    for gap in range(low, high + 1):
        inner[:, gap:] = np.maximum(inner[:, gap:], polar[:, :-gap])
    return np.asarray(inner[angle, ring])
