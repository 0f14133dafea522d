"""Overlap of two masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.thinning import thin

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cldice", "dice"]


def dice(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float | None:
    """Return the Dice coefficient 2 |P R| / (|P| + |R|), None if both masks are empty (Dice 1945)."""
    size = int(np.count_nonzero(predicted)) + int(np.count_nonzero(reference))
    return None if size == 0 else 2 * int(np.count_nonzero(predicted & reference)) / size


def cldice(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float | None:
    """Return the clDice of two masks, by their medial surfaces (Shit et al. 2021, CVPR, eq. 3).

    The harmonic mean of the share of the predicted medial surface inside the reference and the
    share of the reference's inside the prediction; 0 if one mask is empty, None if both are.
    """
    if not predicted.any() and not reference.any():
        return None
    if not predicted.any() or not reference.any():
        return 0.0
    precision = float(reference[_medial(predicted)].mean())
    sensitivity = float(predicted[_medial(reference)].mean())
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def _medial(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the medial surface; a map is mostly empty, so only the mask's box and what is beside it is looked at."""
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in ndimage.find_objects(mask.astype(np.uint8))[0])
    own = np.ascontiguousarray(mask[box])
    medial = np.zeros_like(mask)
    medial[box] = thin(own, ndimage.distance_transform_edt(own))
    return medial
