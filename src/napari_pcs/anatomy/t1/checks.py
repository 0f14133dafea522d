"""What a scan must be before it is worth minutes of work, found from its voxels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.anatomy.extent import bounds
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_SPACING_MM", "check_extent", "check_scan", "foreground"]

MAX_SPACING_MM = 3.0
"""Cortex is 2 to 4 mm thick: thicker slices mix its two banks."""
MIN_VALUES = 64
_EXPECTED = "a T1-weighted scan of a whole brain"
_MIN_EXTENT_MM = (90.0, 110.0, 80.0)
"""Smaller than any adult brain from left to right, back to front and bottom to top."""
_MIN_LITRES = 0.5
_FAINT = 0.1
"""Share of the bright end of a scan below which a voxel is air or noise."""


def check_scan(data: NDArray[np.floating], affine: NDArray[np.float64]) -> None:
    """Require a scan with grey values and voxels small enough to show the cortex.

    Parameters
    ----------
    data
        The scan, axes (x, y, z).
    affine
        (4, 4): voxel index to world mm.

    Raises
    ------
    InputError
        If it is constant, a map with few values, or too coarse.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.max() > MAX_SPACING_MM:
        raise InputError(
            found=f"voxels of {' x '.join(f'{s:.3g}' for s in spacing)} mm",
            expected=f"at most {MAX_SPACING_MM:g} mm along each axis",
            advice="Sulci cannot be seen in thick slices: choose the 3-D T1 scan of the session.",
        )
    if not np.isfinite(data).all():
        raise InputError(found="voxels that are NaN or infinite", expected="finite values", advice="Export it again.")
    values = np.unique(data[:: max(1, data.shape[0] // 64)])
    if len(values) < MIN_VALUES:
        raise InputError(
            found=f"an image with only {len(values)} different values",
            expected=_EXPECTED,
            advice="This looks like a mask or a map of tissues: open it as a grey/white map instead.",
        )


def foreground(data: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return the voxels that are brighter than air and noise."""
    positive = data[data > 0]
    if positive.size == 0:
        raise InputError(found="no voxel above 0", expected=_EXPECTED, advice="Export the scan again.")
    bright = np.percentile(positive, 98)
    return np.asarray(data > _FAINT * bright)


def check_extent(content: NDArray[np.bool_], affine: NDArray[np.float64]) -> None:
    """Require that what is bright is at least as large as a brain.

    Raises
    ------
    InputError
        If it is smaller: only a part of a brain, or no human one.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    litres = float(np.count_nonzero(content) * np.prod(spacing) / 1e6)
    if litres < _MIN_LITRES:
        raise InputError(
            found=f"{litres:.2f} litres of tissue",
            expected=f"at least {_MIN_LITRES:g}: {_EXPECTED}",
            advice="One hemisphere or a slab cannot be segmented as a scan; check also the voxel size in the header.",
        )
    extent = [(last - first + 1) * s for (first, last), s in zip(bounds(content), spacing, strict=True)]
    if any(e < low for e, low in zip(extent, _MIN_EXTENT_MM, strict=True)):
        raise InputError(
            found=f"content of {' x '.join(f'{e:.0f}' for e in extent)} mm",
            expected=f"at least {' x '.join(f'{low:.0f}' for low in _MIN_EXTENT_MM)} mm: {_EXPECTED}",
            advice="The scan may be cropped, or its axes mislabelled in the header.",
        )
