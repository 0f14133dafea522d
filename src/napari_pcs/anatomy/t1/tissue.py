"""Grey, white and fluid of a skull-stripped T1: N4, then Atropos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.anatomy.t1.bridge import ants_module, to_ants
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FLUID", "GREY_CLASS", "WHITE_CLASS", "check_classes", "classify", "correct_bias", "without_glare"]

FLUID, GREY_CLASS, WHITE_CLASS = 1, 2, 3
_GLARE_PERCENTILE = 99.5
_SHRINK = 4
_ITERATIONS = (40, 40)
"""Two levels: a finer spline follows the anatomy, and takes grey for shaded white matter."""
_TOLERANCE = 1e-6
_SWEEPS = 3
"""More do not change the classes: Dice with and without two more differ by less than 0.001."""
_MIN_SHARE = 0.1
_MIN_CONTRAST = 1.1


def without_glare(data: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the brain, 0 outside, with vessels no brighter than white matter's brightest.

    Otherwise a handful of bright vessels become a class of their own.
    """
    limit = np.percentile(data[mask], _GLARE_PERCENTILE)
    return np.where(mask, np.clip(data, 0, limit), 0).astype(np.float32)


def correct_bias(
    brain: NDArray[np.float32], mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the brain without its slow changes of brightness, and the field that it is divided by.

    N4 (Tustison et al. 2010, doi 10.1109/TMI.2010.2046908).
    """
    field = (
        ants_module()
        .n4_bias_field_correction(
            to_ants(brain, affine),
            mask=to_ants(mask, affine),
            shrink_factor=_SHRINK,
            convergence={"iters": list(_ITERATIONS), "tol": _TOLERANCE},
            return_bias_field=True,
        )
        .numpy()
    )
    field = np.maximum(field, np.float32(1e-3))
    return np.where(mask, brain / field, 0).astype(np.float32), field


def classify(brain: NDArray[np.float32], mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return 0 outside the mask, 1 fluid, 2 grey and 3 white matter.

    Atropos (Avants et al. 2011, doi 10.1007/s12021-011-9109-y), from k-means, with neighbours of
    one voxel.
    """
    result = ants_module().atropos(
        a=to_ants(brain, affine),
        x=to_ants(mask, affine),
        i="kmeans[3]",
        m="[0.1,1x1x1]",
        c=f"[{_SWEEPS},0]",
        priorweight=0,
    )
    return np.asarray(result["segmentation"].numpy(), dtype=np.uint8)


def check_classes(brain: NDArray[np.floating], classes: NDArray[np.uint8]) -> None:
    """Require that grey and white matter are both there and differ as on a T1.

    Raises
    ------
    InputError
        If not.
    """
    inside = classes > 0
    whole = max(int(np.count_nonzero(inside)), 1)
    shares = [int(np.count_nonzero(classes == c)) / whole for c in (GREY_CLASS, WHITE_CLASS)]
    medians = [float(np.median(brain[classes == c])) if s else 0.0 for c, s in zip((2, 3), shares, strict=True)]
    contrast = medians[1] / medians[0] if medians[0] > 0 else 0.0
    if min(shares) < _MIN_SHARE or contrast < _MIN_CONTRAST:
        raise InputError(
            found=f"{shares[0]:.0%} grey and {shares[1]:.0%} white matter, white {contrast:.2f} times as bright",
            expected=f"at least {_MIN_SHARE:.0%} of each, white at least {_MIN_CONTRAST:g} times as bright",
            advice="The scan may not be T1-weighted, or too noisy: choose another, or give a grey/white map.",
        )
