"""From probabilities to labels, and how sure they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.length import MIN_PIECE_VOXELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["labels_from", "least_voxels", "uncertainty_of"]

MIN_PCS_MM3 = 20.0
"""Smaller pieces of predicted PCS are dropped: half of what the starter's weak labels hold at least."""
_CUBE = np.ones((3, 3, 3), dtype=bool)


def labels_from(probabilities: NDArray[np.float32], *, min_voxels: int = MIN_PIECE_VOXELS) -> NDArray[np.uint8]:
    """Label voxels from probabilities (x, y, z, 2): skeleton from 0.5, PCS where it is the likelier skeleton.

    Pieces of PCS of fewer than `min_voxels` become skeleton again: bridged into a chain, a few
    stray specks would add centimetres to its length.
    """
    skeleton = probabilities[..., 0] >= 0.5
    pcs = skeleton & (probabilities[..., 1] >= 0.5 * probabilities[..., 0])
    pieces, _ = ndimage.label(pcs, _CUBE)
    large = np.bincount(pieces.ravel()) >= min_voxels
    large[0] = False
    return np.asarray(skeleton.astype(np.uint8) + large[pieces], dtype=np.uint8)


def least_voxels(spacing: Sequence[float]) -> int:
    """Return the voxels of the smallest piece of PCS that is kept, for a voxel's size in mm."""
    return max(MIN_PIECE_VOXELS, round(MIN_PCS_MM3 / float(np.prod(spacing))))


def uncertainty_of(probabilities: NDArray[np.float32]) -> float:
    """Return the mean binary entropy (bits) of PCS given skeleton where PCS is thinkable (P >= 0.05).

    Parameters
    ----------
    probabilities
        (2, x, y, z): skeleton, PCS.
    """
    skeleton, pcs = probabilities
    thinkable = pcs >= 0.05
    if not thinkable.any():
        return 0.0
    p = np.clip(pcs[thinkable] / skeleton[thinkable], 1e-6, 1 - 1e-6)
    return float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p)))
