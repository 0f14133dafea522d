"""Convolutions of small volumes on a CPU, by the library that PyTorch keeps for larger ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SmallConv3d", "convolve", "quicken_convolutions"]


def quicken_convolutions(network: nn.Module) -> None:
    """Let the 3 x 3 x 3 convolutions of a network use `SmallConv3d`; weights and their names stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d and module.kernel_size == (3, 3, 3) and module.padding_mode == "zeros":
            module.__class__ = SmallConv3d


class SmallConv3d(nn.Conv3d):
    """A 3-D convolution that always runs in oneDNN on a CPU.

    PyTorch leaves single samples with few channels x rows to a routine that first copies every voxel
    27 times, and takes three to five times longer both ways (`use_mkldnn` in its Convolution.cpp).
    A tensor in oneDNN's own layout does not meet that rule; the sums are the same.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as nn.Conv3d calls it
        """Convolve (batch, channel, x, y, z)."""
        if not _takes_the_slow_way(input):
            return super().forward(input)
        weights = self.weight, self.bias
        found = F.conv3d(input.to_mkldnn(), *weights, self.stride, self.padding, self.dilation, self.groups)
        return found.to_dense()


def convolve(image: Tensor, weight: Tensor, *, padding: int) -> Tensor:
    """Convolve (batch, channel, x, y, z) with (out, channel, kernel, kernel, kernel) as `SmallConv3d` would."""
    if weight[0, 0].numel() == 1 or not _takes_the_slow_way(image):
        return F.conv3d(image, weight, padding=padding)
    return F.conv3d(image.to_mkldnn(), weight, padding=padding).to_dense()


def _takes_the_slow_way(image: Tensor) -> bool:
    return (
        image.device.type == "cpu"
        and len(image) == 1
        and image.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
