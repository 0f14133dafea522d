"""Time of SSIM as a loss, forward and backward, beside MONAI's, and how far the two and the truth are apart.

    python benchmarks/ssim.py [--side 64] [--rounds 5] [--device cpu]

Each round runs all in turn; the figures are ratios of medians from one run. The truth is the formula in double
precision (scipy.ndimage). Images are noise, and tissue (the phantom's medial wall) with a noisy copy.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.losses import SSIMLoss
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from napari_pcs.data.phantom import phantom
from napari_pcs.objectives.ssim import ssim_loss

if TYPE_CHECKING:
    from torch import Tensor

Loss = "Callable[[Tensor, Tensor], Tensor]"
WINDOW, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2
START = (10, 60, 40)


def by_convolution(x: Tensor, y: Tensor) -> Tensor:
    """SSIM loss with the same separated window as convolutions, all five images as channels."""
    profile = torch.exp(-(((torch.arange(WINDOW, device=x.device) - WINDOW // 2) / SIGMA) ** 2) / 2)
    profile /= profile.sum()
    images = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    for axis in range(3):
        shape = [WINDOW if axis == a else 1 for a in range(3)]
        images = F.conv3d(images, profile.reshape(1, 1, *shape).expand(5, 1, *shape), groups=5)
    mean_x, mean_y, xx, yy, xy = images.unbind(1)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    return 1 - ((2 * product + C1) * (2 * (xy - product) + C2) / ((squares + C1) * (xx + yy - squares + C2))).mean()


def in_double(x: Tensor, y: Tensor) -> float:
    """SSIM loss of single-channel volumes in double precision."""

    def smooth(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, SIGMA, radius=WINDOW // 2)[(slice(WINDOW // 2, -(WINDOW // 2)),) * 3]

    values = []
    for a, b in zip(x[:, 0].cpu().double().numpy(), y[:, 0].cpu().double().numpy(), strict=True):
        mean_a, mean_b = smooth(a), smooth(b)
        cov, squares = smooth(a * b) - mean_a * mean_b, mean_a**2 + mean_b**2
        variances = smooth(a * a) + smooth(b * b) - squares
        values.append((2 * mean_a * mean_b + C1) * (2 * cov + C2) / ((squares + C1) * (variances + C2)))
    return 1 - float(np.mean(values))


def timed(loss: Loss, x: Tensor, y: Tensor) -> tuple[float, float, Tensor]:
    """Return seconds of forward and backward, the loss, and the gradient."""
    x = x.clone().requires_grad_()
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    value = loss(x, y)
    value.backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, value.item(), x.grad


def pairs(batch: int, side: int, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return noise and a fainter, noisier copy; tissue and a noisy copy."""
    random = torch.Generator().manual_seed(0)
    noise, other = (torch.rand((batch, 1, side, side, side), generator=random) for _ in range(2))
    box = tuple(slice(first, first + side) for first in START)
    tissue = torch.from_numpy(phantom().tissue.data[box] / np.float32(2)).expand(batch, 1, side, side, side)
    grainy = (tissue + 0.05 * torch.randn(tissue.shape, generator=random)).clamp(0, 1)
    both = {"noise": (0.7 * noise + 0.3 * other, noise), "tissue": (grainy, tissue.contiguous())}
    return {name: (x.to(device), y.to(device)) for name, (x, y) in both.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    losses: dict[str, Loss] = {
        "MONAI": SSIMLoss(3, win_size=WINDOW, kernel_sigma=SIGMA),
        "convolved": by_convolution,
        "napari-pcs": ssim_loss,
    }
    print(f"{options.side}^3 voxels, {options.device}, {torch.get_num_threads()} thread(s)")
    for batch in (1, 4):
        for image, (x, y) in pairs(batch, options.side, options.device).items():
            runs = {name: [timed(loss, x, y) for _ in range(2)] for name, loss in losses.items()}
            for _ in range(options.rounds):
                for name, loss in losses.items():
                    runs[name].append(timed(loss, x, y))
            seconds = {name: float(np.median([run[0] for run in found[2:]])) for name, found in runs.items()}
            (_, theirs, reference), truth = runs["MONAI"][0], in_double(x, y)
            print(f"batch {batch}, {image}: MONAI is off by {abs(theirs - truth):.1e}")
            for name in ("convolved", "napari-pcs"):
                _, value, gradient = runs[name][0]
                apart = float((gradient - reference).abs().max())
                times = f"{1e3 * seconds[name]:.1f} and {1e3 * seconds['MONAI']:.1f} ms"
                print(
                    f"  {name:10s} {seconds['MONAI'] / seconds[name]:6.1f} x as fast as MONAI"
                    f" ({times}), off by {abs(value - truth):.1e};"
                    f" from MONAI {abs(value - theirs):.1e}, gradient {apart:.1e}"
                    f" of {float(reference.abs().max()):.1e}"
                )


if __name__ == "__main__":
    main()
