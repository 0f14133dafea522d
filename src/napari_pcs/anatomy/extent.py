"""How far a mask reaches along each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bounds", "box_around"]


def bounds(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first and last used index along x, y and z of a mask that is not empty."""
    used = (np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
    return [(int(u[0]), int(u[-1])) for u in used]


def box_around(mask: NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    """Return the bounding box of a mask, widened by a margin in voxels and kept inside the volume."""
    ends = zip(bounds(mask), mask.shape, strict=True)
    return tuple(slice(max(first - margin, 0), min(last + 1 + margin, n)) for (first, last), n in ends)
