"""Distances between the surfaces of two masks, in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SurfaceDistances", "surface_distances"]


class SurfaceDistances(NamedTuple):
    """Distances of every surface voxel of one mask to the nearest one of the other, both ways.

    Attributes
    ----------
    to_reference, to_predicted
        1-D arrays in mm.
    """

    to_reference: NDArray[np.float64]
    to_predicted: NDArray[np.float64]

    @property
    def hd_mm(self) -> float:
        """Hausdorff distance: the largest of all, a true maximum."""
        return float(max(self.to_reference.max(), self.to_predicted.max()))

    @property
    def hd95_mm(self) -> float:
        """The larger of the two directed 95th percentiles."""
        return float(max(np.percentile(self.to_reference, 95), np.percentile(self.to_predicted, 95)))

    @property
    def assd_mm(self) -> float:
        """Average symmetric surface distance: mean over the voxels of both surfaces."""
        return float(np.concatenate(self).mean())

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice: share of both surfaces within a tolerance (Nikolov et al. 2018)."""
        return float((np.concatenate(self) <= tolerance_mm).mean())


def surface_distances(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> SurfaceDistances | None:
    """Measure the distances between two masks' surfaces, None if either mask is empty.

    A surface voxel is one with a face neighbour outside the mask; distances run between voxel
    centres. In a sheet one voxel thick every voxel is a surface voxel.
    """
    if not predicted.any() or not reference.any():
        return None
    ours, theirs = _surface(predicted) * np.asarray(spacing), _surface(reference) * np.asarray(spacing)
    return SurfaceDistances(cKDTree(theirs).query(ours)[0], cKDTree(ours).query(theirs)[0])


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask, border_value=0))
