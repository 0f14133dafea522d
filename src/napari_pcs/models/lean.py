"""Blocks that hold less for the backward pass where their own weights are frozen, for MONAI's Swin-UNETR.

Low-rank pairs train the encoder, so gradients pass the whole decoder though nothing of it trains.
PyTorch then holds what gradients of the weights would need too: the input of each convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from napari_pcs.models.convolution import convolve

__all__ = ["LeanResBlock", "LeanSwinBlock", "lean_blocks"]


def lean_blocks(network: nn.Module) -> None:
    """Let the residual and transformer blocks of a network of MONAI's hold less while they are frozen.

    Only the classes of the modules change: weights, their names and the results stay.
    """
    for module in network.modules():
        if type(module) is UnetResBlock and _is_known(module):
            module.__class__ = LeanResBlock
        elif type(module) is SwinTransformerBlock:
            module.__class__ = LeanSwinBlock


class LeanSwinBlock(SwinTransformerBlock):  # type: ignore[misc]  # MONAI is untyped
    """A Swin block that is computed once more in the backward pass while its own weights are frozen.

    A step then is quick already, as no weight but those of pairs has a gradient, and memory is short.
    """

    def forward(self, x: Tensor, mask_matrix: Tensor | None) -> Tensor:
        """Return the block's output (batch, x, y, z, channel), as MONAI's does."""
        if self.use_checkpoint or not _passes_gradients(x, self.norm2):
            return super().forward(x, mask_matrix)  # type: ignore[no-any-return]
        x = x + self.drop_path(checkpoint(self.forward_part1, x, mask_matrix, use_reentrant=False))
        return x + checkpoint(self.forward_part2, x, use_reentrant=False)  # type: ignore[no-any-return]


class LeanResBlock(UnetResBlock):  # type: ignore[misc]
    """A residual block of two convolutions that while it is frozen holds three values of its eight.

    These are the first convolution's normalised and rectified output, the second's normalised one
    and the block's output. All else that the gradient of the input needs follows from them: leaky
    rectification can be undone (Rota Bulo et al. 2018, In-Place Activated BatchNorm, section 3), and what
    was added to the second is the sum less the second.
    """

    def forward(self, inp: Tensor) -> Tensor:
        """Return the block's output (batch, channel, x, y, z), as MONAI's does."""
        # One voxel cannot be normalised: MONAI's own says so.
        if not _passes_gradients(inp, self) or not _is_known(self) or inp[0, 0].numel() == 1:
            return super().forward(inp)  # type: ignore[no-any-return]
        kind = inp.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inp.dtype
        third = self.conv3.conv.weight.to(dtype) if self.downsample else None
        weights = self.conv1.conv.weight.to(dtype), self.conv2.conv.weight.to(dtype), third
        norms = [self.norm1, self.norm2, *([self.norm3] if self.downsample else [])]
        told = [getattr(norm, "correction", None) for norm in norms]
        arguments = self.lrelu.negative_slope, self.norm1.eps, told
        return _FrozenBlock.apply(inp.to(dtype), *weights, *arguments)  # type: ignore[no-any-return, no-untyped-call]


def _passes_gradients(x: Tensor, frozen: nn.Module) -> bool:
    """Say whether gradients pass a module that has no use for them itself."""
    return torch.is_grad_enabled() and x.requires_grad and not any(p.requires_grad for p in frozen.parameters())


def _is_known(block: UnetResBlock) -> bool:
    """Say whether a block is one that `_FrozenBlock` computes: no strides, no biases, no trained normalisation."""
    thirds = block.downsample
    convolutions = [block.conv1, block.conv2, *([block.conv3] if thirds else [])]
    norms = [block.norm1, block.norm2, *([block.norm3] if thirds else [])]
    return (
        isinstance(block.lrelu, nn.LeakyReLU)
        and block.lrelu.negative_slope > 0
        and all(isinstance(n, nn.InstanceNorm3d) and not n.affine and not n.track_running_stats for n in norms)
        and all(len(list(c.children())) == 1 and _is_plain(getattr(c, "conv", None)) for c in convolutions)
    )


def _is_plain(convolution: nn.Module | None) -> bool:
    return (
        isinstance(convolution, nn.Conv3d)
        and convolution.bias is None
        and convolution.stride == (1, 1, 1)
        and convolution.dilation == (1, 1, 1)
        and convolution.groups == 1
        and convolution.padding == tuple(side // 2 for side in convolution.kernel_size)
        and all(side % 2 for side in convolution.kernel_size)
    )


class _FrozenBlock(torch.autograd.Function):
    """`UnetResBlock` with a gradient for its input only."""

    @staticmethod
    def forward(
        ctx: Any,
        inp: Tensor,
        first: Tensor,
        second: Tensor,
        third: Tensor | None,
        slope: float,
        eps: float,
        told: list[Tensor | None],
    ) -> Tensor:
        inner, scale1 = _normalise(_convolve(inp, first), told[0], eps)
        F.leaky_relu_(inner, slope)
        outer, scale2 = _normalise(_convolve(inner, second), told[1], eps)
        if third is None:
            out, scale3 = outer + inp, None
        else:
            out, scale3 = _normalise(_convolve(inp, third), told[2], eps)
            out += outer
        F.leaky_relu_(out, slope)
        ctx.save_for_backward(first, second, third, inner, outer, out, scale1, scale2, scale3, *told)
        ctx.slope = slope
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second, third, inner, outer, out, scale1, scale2, scale3, *told = ctx.saved_tensors
        grad = _of_rectified(grad, out, ctx.slope)
        found = _convolve_back(_of_normalised(grad, outer, scale2, told[1]), second)
        found = _of_rectified(found, inner, ctx.slope)
        found = _of_normalised(found, _unrectified(inner, ctx.slope), scale1, told[0])
        found = _convolve_back(found, first)
        if third is None:
            found += grad
        else:
            added = _unrectified(out, ctx.slope).sub_(outer)
            grad = _of_normalised(grad, added, scale3, told[2])
            del added
            # A convolution of single voxels is a product, which can be added in place.
            product = third.flatten(1).t().expand(len(grad), -1, -1)
            found.flatten(2).baddbmm_(product, grad.flatten(2))
        return found, *[None] * 6


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    return convolve(x, weight, padding=weight.shape[-1] // 2)


def _convolve_back(grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of what was convolved: another convolution, by the mirrored kernel."""
    return _convolve(grad, weight.flip(2, 3, 4).transpose(0, 1).contiguous())


def _normalise(x: Tensor, told: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Return each channel of each sample at mean 0 and variance 1, and (samples x channels) what it was scaled by.

    Where a correction is told of (see `field_of_view`), its gain and shift are applied.
    """
    gain, shift = _gain_and_shift(told)
    flat = x.contiguous().view(1, -1, *x.shape[2:])
    found, _, scale = torch.native_batch_norm(flat, gain, shift, None, None, True, 0.0, eps)
    return found.view(x.shape), scale


def _of_normalised(grad: Tensor, found: Tensor, scale: Tensor, told: Tensor | None) -> Tensor:
    """Return the gradient of what was normalised: scale (g - mean(g) - n mean(g n)) (Ioffe and Szegedy 2015).

    PyTorch's kernel computes that of n, which is normalised already, times a weight. It takes n itself
    as (found - shift) / gain, and g is that of what was found, times the gain.
    """
    gain, shift = _gain_and_shift(told)
    flat = (1, -1, *grad.shape[2:])
    if gain is None or shift is None:
        weight, mean, inverse = scale, torch.zeros_like(scale), torch.ones_like(scale)
    else:
        weight, mean, inverse = scale * gain.square(), shift, gain.reciprocal()
    arguments = grad.contiguous().view(flat), found.view(flat), weight, None, None, mean, inverse
    result, _, _ = torch.ops.aten.native_batch_norm_backward(*arguments, True, 0.0, [True, False, False])
    return torch.as_tensor(result).view(grad.shape)


def _gain_and_shift(told: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if told is None else (told[:, 0].flatten(), told[:, 1].flatten())


def _of_rectified(grad: Tensor, rectified: Tensor, slope: float) -> Tensor:
    return torch.as_tensor(torch.ops.aten.leaky_relu_backward(grad, rectified, slope, True))


def _unrectified(rectified: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(rectified, 1 / slope)
