"""The medial surface of the sulcal space of one hemisphere, from its grey/white map.

The banks of a sulcus are two sheets of grey on white matter. Points equally far from the white
matter of both banks form the medial surface: there the gradient of the distance from white matter
turns over and its average outward flux is strongly negative (Dimitrov, Damon & Siddiqi 2003,
"Flux invariants for shape", CVPR; a flat sheet has -0.47 over the 26 neighbours). That ridge,
thinned without changing its topology, is the skeleton.

It needs only the tissue map. Morphologist instead erodes the cortex guided by the grey level of
the T1, so the two agree on folds and not on every voxel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit
from scipy import ndimage

from napari_pcs.anatomy.extent import box_around
from napari_pcs.anatomy.hull import hull_of
from napari_pcs.anatomy.patch import fill_holes
from napari_pcs.anatomy.thinning import thin
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.anatomy.frame import HemisphereFrame

__all__ = ["outward_flux", "skeletonize"]

SMOOTHING_MM = 0.7
MIN_DISTANCE_MM = 1.0
FLUX_THRESHOLD = -0.2
MIN_PIECE_MM3 = 30.0
HOLE_RADII_MM = (1, 2, 3)
"""Half-widths of the holes that are closed, one after another: a narrow one needs the smallest patch."""
_VENTRICLE_REACH = 1.35
"""How far beyond the ellipsoids, as a multiple of their size, an enlarged ventricle is followed."""
_MARGIN_MM = 4.5
_CUBE = np.ones((3, 3, 3), dtype=bool)


class _Ellipsoid(NamedTuple):
    """Part of the deep nuclei and the lateral ventricle: centre and half-axes in mm of the reference frame."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


_DEEP = (
    _Ellipsoid((10, -3, 9), (20, 34, 16)),
    _Ellipsoid((22, 1, 2), (12, 25, 13)),
    _Ellipsoid((23, -36, 11), (10, 14, 13)),
)
"""Caudate, thalamus and ventricular body; lentiform nucleus; atrium. No cortical fold enters them."""

_ROOM = _Ellipsoid((13, -2, 22), (16, 42, 14))
"""Where the ventricle may lie, with the few millimetres by which the estimated frame errs in height."""
_SEED_REACH = 0.7
_ASIDE_MM = 5.0


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))


def _deep_zone(tissue: NDArray[np.bool_], inside: NDArray[np.bool_], frame: HemisphereFrame) -> NDArray[np.bool_]:
    """Deep nuclei and ventricle: fixed ellipsoids, the fluid that continues out of them, and the ventricle's roof."""
    axes = [axis / frame.scale for axis in frame.axes_mm(tissue.shape)]
    reach = np.full(tissue.shape, np.inf, dtype=np.float32)
    for ellipsoid in _DEEP:
        reach = np.minimum(reach, _reach(ellipsoid, axes))
    zone = reach < 1
    fluid = ~tissue & (reach < _VENTRICLE_REACH**2)
    zone |= ndimage.binary_propagation(zone & fluid, mask=fluid)
    # White matter parts the ventricle from every fold, except where both open to the midline.
    room = inside & (_reach(_ROOM, axes) < 1) & (axes[0] > _ASIDE_MM)
    return np.asarray(zone | ndimage.binary_propagation(room & (reach < _SEED_REACH**2), mask=room))


def _reach(ellipsoid: _Ellipsoid, axes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Squared distance from the centre, as a multiple of the ellipsoid's size."""
    squares = (((a - c) / r) ** 2 for a, c, r in zip(axes, ellipsoid.centre, ellipsoid.radii, strict=True))
    return np.asarray(sum(squares, start=np.float32(0)))


@njit(cache=True)
def _sum_flux(
    gradient: NDArray[np.float32], inside: NDArray[np.bool_], steps: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    nx, ny, nz = inside.shape
    for x in range(1, nx - 1):
        for y in range(1, ny - 1):
            for z in range(1, nz - 1):
                if not inside[x, y, z]:
                    continue
                total = 0.0
                for i in range(27):
                    g = gradient[x + i // 9 - 1, y + i // 3 % 3 - 1, z + i % 3 - 1]
                    total += g[0] * steps[i, 0] + g[1] * steps[i, 1] + g[2] * steps[i, 2]
                out[x, y, z] = total / 26.0


def outward_flux(
    distance: NDArray[np.floating], inside: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Return the average outward flux of the normalised gradient of a distance map.

    Parameters
    ----------
    distance
        Distance map, axes (x, y, z), in mm.
    inside
        Voxels to compute; 0 is returned elsewhere and on the volume's border.
    spacing
        Voxel size in mm.

    Returns
    -------
    numpy.ndarray
        Mean over the 26 neighbours of the unit gradient's component away from the voxel: near 0
        where the distance is smooth, -0.47 on a flat medial sheet.
    """
    gradient = np.stack(np.gradient(distance, *spacing), axis=-1).astype(np.float32)
    gradient /= np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-6)
    steps = (np.indices((3, 3, 3)).reshape(3, -1).T - 1) * np.asarray(spacing, dtype=float)
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    steps = np.divide(steps, lengths, out=np.zeros_like(steps), where=lengths > 0).astype(np.float32)
    out = np.zeros(inside.shape, dtype=np.float32)
    _sum_flux(gradient, inside, steps, out)
    return out


def skeletonize(grey: NDArray[np.bool_], white: NDArray[np.bool_], frame: HemisphereFrame) -> NDArray[np.bool_]:
    """Extract the sulcal skeleton of a hemisphere.

    Parameters
    ----------
    grey, white
        Grey and white matter, boolean, axes (x, y, z) in RAS order.
    frame
        Frame of the same grid; it locates the ventricle and the deep nuclei, which are left out.

    Returns
    -------
    numpy.ndarray
        Boolean volume of sheets one voxel thick: a 26-connected object without a filled
        2 x 2 x 2 block.
    """
    # A whole head is mostly empty, and the work is by volume.
    box = box_around(grey | white, int(np.ceil(_MARGIN_MM / min(frame.spacing))))
    start = [s.start for s in box]
    inner = replace(frame, origin=tuple(o - s for o, s in zip(frame.origin, start, strict=True)))
    skeleton = np.zeros(grey.shape, dtype=bool)
    # Ties are broken by the order of voxels: as left hemispheres, both sides are thinned alike.
    if frame.hemisphere is Hemisphere.RIGHT:
        skeleton[box] = _skeletonize(grey[box][::-1], white[box][::-1], _mirrored(inner, grey[box].shape[0]))[::-1]
    else:
        skeleton[box] = _skeletonize(grey[box], white[box], inner)
    return skeleton


def _mirrored(frame: HemisphereFrame, width: int) -> HemisphereFrame:
    return replace(frame, hemisphere=Hemisphere.LEFT, origin=(width - 1 - frame.origin[0], *frame.origin[1:]))


def _skeletonize(grey: NDArray[np.bool_], white: NDArray[np.bool_], frame: HemisphereFrame) -> NDArray[np.bool_]:
    spacing = frame.spacing
    core = ndimage.binary_fill_holes(_largest(white))
    hull = hull_of(grey | white, spacing)
    distance = ndimage.distance_transform_edt(~core, sampling=spacing).astype(np.float32)
    inside = hull & (distance > MIN_DISTANCE_MM)
    smooth = ndimage.gaussian_filter(distance, [SMOOTHING_MM / s for s in spacing])
    flux = outward_flux(smooth, inside, spacing)
    ridge = inside & (flux < FLUX_THRESHOLD)
    allowed = inside & ~_deep_zone(grey | white, inside, frame)
    min_voxels = MIN_PIECE_MM3 / float(np.prod(spacing))
    ridge = _drop_crumbs(ridge & allowed, min_voxels)
    closed = ridge
    for radius in HOLE_RADII_MM:
        closed = fill_holes(closed, allowed, max(1, round(radius / max(spacing))))
    # A patch that closes a pocket raises the Euler number too: the pocket is filled as well.
    closed = ndimage.binary_fill_holes(closed)
    return _drop_crumbs(thin(closed, -flux, anchors=ridge), min_voxels)


def _drop_crumbs(skeleton: NDArray[np.bool_], min_voxels: float) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(skeleton, _CUBE)
    keep = np.bincount(labels.ravel()) >= min_voxels
    keep[0] = False
    return np.asarray(keep[labels])
