"""The hull of a hemisphere, and how deep below it a point lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.extent import box_around

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HULL_RADIUS_MM", "closed", "depth_below_hull", "hull_of"]

HULL_RADIUS_MM = 8.0
"""Ball that closes the sulci: it must not fit into one."""


def closed(mask: NDArray[np.bool_], radius: float, spacing: tuple[float, ...]) -> NDArray[np.bool_]:
    """Close a mask with a ball of `radius` mm, by two distance transforms."""
    pad = [int(np.ceil(radius / s)) + 1 for s in spacing]
    padded = np.pad(mask, [(p, p) for p in pad])
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing) <= radius
    shrunk = ndimage.distance_transform_edt(grown, sampling=spacing) > radius
    return np.asarray(shrunk[tuple(slice(p, -p) for p in pad)])


def hull_of(tissue: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.bool_]:
    """Return the hemisphere with its sulci and cavities filled, axes (x, y, z)."""
    return np.asarray(ndimage.binary_fill_holes(closed(tissue, HULL_RADIUS_MM, spacing)))


def depth_below_hull(tissue: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Return the distance in mm of every voxel inside the hull to the nearest one outside; 0 outside."""
    depth = np.zeros(tissue.shape, dtype=np.float32)
    box = box_around(tissue, int(np.ceil(HULL_RADIUS_MM / min(spacing))))
    hull = np.pad(hull_of(tissue[box], spacing), 1)
    depth[box] = ndimage.distance_transform_edt(hull, sampling=spacing)[1:-1, 1:-1, 1:-1]
    return depth
