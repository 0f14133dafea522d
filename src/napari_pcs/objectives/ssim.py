"""Structural similarity of images and volumes, with a Gaussian window that is applied axis by axis.

Smoothing an axis is a product with a banded matrix: on a CPU that is several times faster than the
same window as a convolution, and both are many times faster than a window that is not separated
(benchmarks/ssim.py).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MS_SSIM_WEIGHTS", "multi_scale_ssim", "multi_scale_weights", "ssim", "ssim_loss"]

WINDOW = 11
"""Voxels a side of the window."""
SIGMA = 1.5
"""Standard deviation of the window, in voxels."""
K1, K2 = 0.01, 0.03
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of scales from fine to coarse (Wang, Simoncelli and Bovik 2003)."""


class _Similarity(NamedTuple):
    """Means (batch,) of SSIM and of its contrast-structure term."""

    ssim: Tensor
    contrast: Tensor


def ssim(x: Tensor, y: Tensor, *, window: int = WINDOW, sigma: float = SIGMA, data_range: float = 1.0) -> Tensor:
    """Return the mean structural similarity of each pair of images (Wang et al. 2004, eq. 13).

    Only places where the window lies wholly inside the image count. Computed in float32 whatever
    autocast says, since variances are small differences of large numbers; on a GPU this needs
    PyTorch's default `float32_matmul_precision`, "highest". Side lengths may differ between axes.

    Parameters
    ----------
    x, y
        (batch, channel, x, y[, z]), of the same shape. What needs no gradient costs none.
    window
        Voxels a side, odd.
    sigma
        Standard deviation of the Gaussian window, in voxels.
    data_range
        Largest possible value minus smallest.

    Returns
    -------
    Tensor
        (batch,) float32 in [-1, 1]; 1 for identical images.

    Raises
    ------
    InputError
        If the shapes differ, are not of 2-D or 3-D images, or a side is shorter than the window.
    """
    return _similarity(x, y, window, sigma, data_range).ssim


def ssim_loss(x: Tensor, y: Tensor, *, window: int = WINDOW, sigma: float = SIGMA, data_range: float = 1.0) -> Tensor:
    """Return 1 - SSIM, the mean over the batch: the reconstruction loss (Mamalakis et al., eq. 1 and 2).

    Parameters, errors and precision are those of `ssim`.
    """
    return 1 - ssim(x, y, window=window, sigma=sigma, data_range=data_range).mean()


def multi_scale_weights(size: Sequence[int], *, window: int = WINDOW) -> tuple[float, ...]:
    """Return the weights of the scales that an image of this size can carry, with sum 1.

    Every scale halves the sides; the window has to fit into the shortest side of the last one. With
    the default window a 64^3 patch has three scales of the published five, weighted 0.0710, 0.4530
    and 0.4760; 64 x 32 x 32 has two, 0.1356 and 0.8644; 176 voxels a side have all five.

    Parameters
    ----------
    size
        Sides in voxels.
    window
        Voxels a side of the window.
    """
    scales = 1
    while scales < len(MS_SSIM_WEIGHTS) and min(size) >> scales >= window:
        scales += 1
    total = sum(MS_SSIM_WEIGHTS[:scales])
    return tuple(weight / total for weight in MS_SSIM_WEIGHTS[:scales])


def multi_scale_ssim(
    x: Tensor, y: Tensor, *, window: int = WINDOW, sigma: float = SIGMA, data_range: float = 1.0
) -> Tensor:
    """Return the multi-scale structural similarity of each pair of images (Wang et al. 2003, eq. 7).

    Contrast and structure at every scale, luminance at the coarsest; scales and weights are those of
    `multi_scale_weights`. A negative term, of structures that are opposite, counts as 0. It is a figure
    to report; as a loss its gradient would be infinite at such a term.

    Parameters
    ----------
    x, y
        (batch, channel, x, y[, z]), of the same shape.
    window, sigma, data_range
        As in `ssim`, and the same at every scale.

    Returns
    -------
    Tensor
        (batch,) float32 in [0, 1].

    Raises
    ------
    InputError
        As `ssim`.
    """
    result = torch.ones(len(x), device=x.device)
    weights = multi_scale_weights(x.shape[2:], window=window)
    x, y = x.float(), y.float()
    for scale, weight in enumerate(weights):
        similarity = _similarity(x, y, window, sigma, data_range)
        coarsest = scale == len(weights) - 1
        result = result * (similarity.ssim if coarsest else similarity.contrast).clamp(min=0) ** weight
        if not coarsest:
            x, y = _halved(x), _halved(y)
    return result


def _halved(image: Tensor) -> Tensor:
    return F.avg_pool3d(image, 2) if image.ndim == 5 else F.avg_pool2d(image, 2)


def _similarity(x: Tensor, y: Tensor, window: int, sigma: float, data_range: float) -> _Similarity:
    _check(x, y, window)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    with torch.autocast(x.device.type, enabled=False):
        # Variances do not depend on where zero is, and lose least to rounding with zero in the middle.
        centre = data_range / 2
        x, y = x.float() - centre, y.float() - centre
        mean_y, square_y = _smoothed(torch.stack([y, y * y]), window, sigma)
        mean_x, square_x, product = _smoothed(torch.stack([x, x * x, x * y]), window, sigma)
        variances = square_x - mean_x * mean_x + square_y - mean_y * mean_y
        contrast = (2 * (product - mean_x * mean_y) + c2) / (variances + c2)
        mean_x, mean_y = mean_x + centre, mean_y + centre
        luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
        return _Similarity((luminance * contrast).flatten(1).mean(1), contrast.flatten(1).mean(1))


def _check(x: Tensor, y: Tensor, window: int) -> None:
    if x.shape != y.shape or x.ndim not in (4, 5):
        raise InputError(
            found=f"images of shapes {tuple(x.shape)} and {tuple(y.shape)}",
            expected="two of the same shape (batch, channel, x, y[, z])",
            advice="Compare images of the same field of view.",
        )
    if window % 2 == 0 or min(x.shape[2:]) < window:
        raise InputError(
            found=f"a window of {window} voxels for images of {' x '.join(map(str, x.shape[2:]))}",
            expected="an odd window that fits into every side",
            advice="Use larger patches.",
        )


def _smoothed(images: Tensor, window: int, sigma: float) -> Tensor:
    """Smooth (kind, batch, channel, ...) along every axis, without the places where the window sticks out."""
    lead, sides = images.shape[:3], images.shape[3:]
    last, before = (_band(n, window, sigma, images.device) for n in sides[:-3:-1])
    smooth = before @ (images @ last.T)
    if len(sides) == 2:
        return smooth
    first = _band(sides[0], window, sigma, images.device)
    return (first @ smooth.flatten(-2)).reshape(*lead, -1, *smooth.shape[-2:])


@lru_cache(maxsize=32)
def _band(side: int, window: int, sigma: float, device: torch.device) -> Tensor:
    """Return (side - window + 1, side): each row holds the window one voxel further on."""
    with torch.inference_mode(mode=False):  # what is kept must also serve training
        profile = torch.exp(-(((torch.arange(window).double() - window // 2) / sigma) ** 2) / 2)
        steps = torch.arange(side) - torch.arange(side - window + 1)[:, None]
        inside = (steps >= 0) & (steps < window)
        return (
            torch.where(inside, profile[steps.clamp(0, window - 1)], 0.0).div(profile.sum()).to(device, torch.float32)
        )
