"""Local shape of a skeleton: where it is one smooth sheet, which way that faces, how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LocalShape", "local_shape", "voxel_areas"]

RADIUS_MM = 3.0
_LIMIT = 12
"""Largest reach in voxels, for voxels of a quarter of a millimetre."""


class LocalShape(NamedTuple):
    """Shape of the sheet around each of n voxels.

    Attributes
    ----------
    normals
        (n, 3) unit vectors across the sheet.
    roughness
        (n,) variance in mm² across the best plane: below 0.2 on a smooth sheet, 0.4 and more where
        three sheets meet or one turns sharply.
    """

    normals: NDArray[np.float64]
    roughness: NDArray[np.float64]


@njit(cache=True)
def _moments(
    node: NDArray[np.int64], index: NDArray[np.int64], spacing: NDArray[np.float64], radius: float
) -> NDArray[np.float64]:
    """Covariance of the voxels that are connected with each voxel inside a ball about it: (n, 3, 3)."""
    reach = np.empty(3, np.int64)
    for a in range(3):
        reach[a] = min(int(radius / spacing[a] + 1e-6), _LIMIT)
    middle = reach.max()
    side = 2 * middle + 1
    seen = np.zeros((side, side, side), np.int64)
    queue = np.empty((side**3, 3), np.int64)
    out = np.zeros((len(index), 3, 3))
    for n in range(len(index)):
        count, head = 1, 0
        queue[0, :] = 0
        seen[middle, middle, middle] = n + 1
        total = np.zeros(3)
        square = np.zeros((3, 3))
        while head < count:
            dx, dy, dz = queue[head]
            head += 1
            mm = (dx * spacing[0], dy * spacing[1], dz * spacing[2])
            for a in range(3):
                total[a] += mm[a]
                for b in range(3):
                    square[a, b] += mm[a] * mm[b]
            for i in range(27):
                x, y, z = dx + i // 9 - 1, dy + i // 3 % 3 - 1, dz + i % 3 - 1
                if abs(x) > reach[0] or abs(y) > reach[1] or abs(z) > reach[2]:
                    continue
                if (x * spacing[0]) ** 2 + (y * spacing[1]) ** 2 + (z * spacing[2]) ** 2 > radius * radius:
                    continue
                if seen[x + middle, y + middle, z + middle] == n + 1:
                    continue
                if not node[index[n, 0] + x, index[n, 1] + y, index[n, 2] + z]:
                    continue
                seen[x + middle, y + middle, z + middle] = n + 1
                queue[count, 0], queue[count, 1], queue[count, 2] = x, y, z
                count += 1
        for a in range(3):
            for b in range(3):
                out[n, a, b] = square[a, b] / count - total[a] * total[b] / count**2
    return out


def local_shape(
    skeleton: NDArray[np.bool_], index: NDArray[np.intp], spacing: tuple[float, float, float]
) -> LocalShape:
    """Return normal and roughness of the sheet at voxels of a skeleton.

    Parameters
    ----------
    skeleton
        Boolean volume, axes (x, y, z).
    index
        (n, 3): the voxels to look at.
    spacing
        Voxel size in mm.
    """
    padded = np.pad(skeleton, _LIMIT).astype(np.int64)
    covariance = _moments(padded, index + _LIMIT, np.asarray(spacing, dtype=float), RADIUS_MM)
    values, vectors = np.linalg.eigh(covariance)
    return LocalShape(vectors[:, :, 0], np.maximum(values[:, 0], 0.0))


def voxel_areas(normals: NDArray[np.floating], spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area in mm² that each voxel of a thin sheet stands for.

    A digital plane one voxel thick has one voxel in each column along the axis that it faces most
    (Reveillès 1991: a naive plane), and the plane's area over a column is the column's divided by
    the cosine between the normal and that axis.
    """
    columns = np.prod(spacing) / np.asarray(spacing)
    axis = np.argmax(np.abs(normals) / np.asarray(spacing), axis=1)
    cosine = np.abs(np.take_along_axis(normals, axis[:, None], axis=1)[:, 0])
    return np.asarray(columns[axis] / cosine)
