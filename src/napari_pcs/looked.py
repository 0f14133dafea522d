"""Which slices of a case its annotator has looked at, so that nobody learns from what nobody saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Looked"]

_Ranges = tuple[tuple[int, int], ...]


class Looked(BaseModel):
    """Slices that were shown in 2-D while labels were edited, as ranges (first, last) of voxel indices in RAS order.

    Attributes
    ----------
    x, y, z
        Sagittal, coronal and axial slices; both ends belong to a range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: _Ranges = ()
    y: _Ranges = ()
    z: _Ranges = ()

    @classmethod
    def at(cls, slices: Sequence[Iterable[int]]) -> Self:
        """Return the record of slices that were looked at.

        Parameters
        ----------
        slices
            Voxel indices along x, y and z.
        """
        x, y, z = (_ranges(sorted(set(axis))) for axis in slices)
        return cls(x=x, y=y, z=z)

    def union(self, other: Looked) -> Self:
        """Return the record of what either has."""
        pairs = zip(self.indices, other.indices, strict=True)
        return self.at([ours | theirs for ours, theirs in pairs])

    @property
    def indices(self) -> tuple[set[int], set[int], set[int]]:
        """Voxel indices of the slices along x, y and z."""
        x, y, z = ({i for first, last in axis for i in range(first, last + 1)} for axis in (self.x, self.y, self.z))
        return x, y, z

    def mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return the voxels (x, y, z) that lie in a slice that was looked at."""
        seen = np.zeros(shape, dtype=bool)
        for axis, ranges in enumerate((self.x, self.y, self.z)):
            for first, last in ranges:
                seen[(slice(None),) * axis + (slice(first, last + 1),)] = True
        return seen


def _ranges(indices: Sequence[int]) -> _Ranges:
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and index == found[-1][1] + 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return tuple(found)
