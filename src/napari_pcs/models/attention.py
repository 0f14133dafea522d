"""Window attention that never writes its scores to memory, for MONAI's Swin transformers.

MONAI's own fuses attention only while autograd is off. Here it is fused in training as well: on a
CPU by kernels of our own, elsewhere by PyTorch's. Weights, their names and the results are MONAI's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from einops import rearrange
from monai.networks.nets.swin_unetr import BasicLayer, WindowAttention, get_window_size
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from napari_pcs.models import attention_kernels as kernels
from napari_pcs.models.threads import share

__all__ = ["FusedLayer", "FusedWindowAttention", "attend", "attend_by_rows", "fuse_attention", "window_regions"]

_HALF_ALIGNMENT = 8
"""Fused kernels of GPUs want this many channels of two bytes."""


def fuse_attention(network: nn.Module) -> None:
    """Let all three-dimensional Swin stages of a network of MONAI's use the attention of this module.

    Only the classes of the modules change: weights and their names stay.
    """
    for module in network.modules():
        if type(module) is BasicLayer:
            module.__class__ = FusedLayer
        elif type(module) is WindowAttention:
            module.__class__ = FusedWindowAttention


class FusedLayer(BasicLayer):  # type: ignore[misc]  # MONAI is untyped
    """One stage of a Swin transformer, that says which region a token is in rather than mask scores.

    Regions take no more than an image does; masks take as much as the scores of all windows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's output, as MONAI's does, for (batch, channel, x, y, z)."""
        sides = tuple(x.shape[2:])
        window, shift = get_window_size(sides, self.window_size, self.shift_size)
        padded = tuple(-(-side // w) * w for side, w in zip(sides, window, strict=True))
        regions = window_regions(padded, window, shift, x.device)
        x = rearrange(x, "b c d h w -> b d h w c")
        for block in self.blocks:
            x = block(x, regions)
        if self.downsample is not None:
            x = self.downsample(x)
        return rearrange(x, "b d h w c -> b c d h w")


@lru_cache(maxsize=64)
def window_regions(
    sides: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
) -> Tensor:
    """Return which region each token of each window lies in, after a cyclic shift.

    Tokens that the shift brought together from opposite sides are in different regions, and do not
    attend to each other (Liu et al. 2021, figure 4).

    Parameters
    ----------
    sides
        Tokens along each axis, multiples of the window's.
    window, shift
        Tokens along each axis.

    Returns
    -------
    Tensor
        (windows, tokens of a window), int8.
    """
    regions = np.zeros((1,) * 0, dtype=np.int8)
    for side, width, by in zip(sides, window, shift, strict=True):
        line = np.zeros(side, dtype=np.int8)
        if by:
            line[-width:], line[-by:] = 1, 2
        regions = regions[..., None] * 3 + line
    cut = regions.reshape([n for side, width in zip(sides, window, strict=True) for n in (side // width, width)])
    cut = cut.transpose([*range(0, cut.ndim, 2), *range(1, cut.ndim, 2)])
    with torch.inference_mode(mode=False):  # kept for steps that do need gradients
        return torch.from_numpy(cut.reshape(-1, int(np.prod(window))).copy()).to(device)


class FusedWindowAttention(WindowAttention):  # type: ignore[misc]
    """MONAI's window attention with a relative position bias, fused also in training."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Parameters
        ----------
        x
            (batch x windows, tokens, channels).
        mask
            (windows, tokens): `window_regions`; None if all tokens attend to all.

        Returns
        -------
        Tensor
            Of the shape of `x`.
        """
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.num_heads, c // self.num_heads)
        index = self.relative_position_index[:n, :n]
        dropout = self.attn_drop.p if self.training else 0.0
        if x.device.type == "cpu" and not dropout:
            precise = qkv if qkv.dtype == torch.float64 else qkv.float()
            table = self.relative_position_bias_table.to(precise.dtype)
            attended = attend_by_rows(precise, table, index, mask, self.scale)
        else:
            bias = self.relative_position_bias_table[index].permute(2, 0, 1)
            attended = attend(qkv, bias, mask, self.scale, dropout)
        return self.proj_drop(self.proj(attended.reshape(b, n, c).to(qkv.dtype)))  # type: ignore[no-any-return]


def attend_by_rows(qkv: Tensor, table: Tensor, index: Tensor, regions: Tensor | None, scale: float) -> Tensor:
    """Attend by the kernels of `attention_kernels`, on a CPU, in single or double precision.

    Parameters
    ----------
    qkv
        (batch x windows, tokens, 3, heads, channels).
    table
        (distances, heads): bias of the scores, of the precision of `qkv`.
    index
        (tokens, tokens): which row of the table is for two tokens.
    regions
        (windows, tokens), or None.

    Returns
    -------
    Tensor
        (batch x windows, tokens, heads, channels).
    """
    return _AttentionByRows.apply(qkv, table, index, regions, scale)  # type: ignore[no-any-return, no-untyped-call]


def attend(qkv: Tensor, bias: Tensor, regions: Tensor | None, scale: float, dropout: float = 0.0) -> Tensor:
    """Attend by PyTorch's fused attention, whose memory-efficient kernel differentiates the bias.

    Parameters
    ----------
    qkv
        (batch x windows, tokens, 3, heads, channels).
    bias
        (heads, tokens, tokens).
    regions
        (windows, tokens), or None.

    Returns
    -------
    Tensor
        (batch x windows, tokens, heads, channels).
    """
    channels = qkv.shape[-1]
    if qkv.element_size() == 2:
        qkv = F.pad(qkv, (0, -channels % _HALF_ALIGNMENT))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    added = bias.to(qkv.dtype)[None]
    if regions is not None:
        apart = regions[:, None, :, None] != regions[:, None, None, :]
        added = torch.where(apart, added - kernels.REGION_PENALTY, added)
        added = added.repeat(len(qkv) // len(regions), 1, 1, 1)
    added = added.expand(len(qkv), -1, -1, -1)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout, scale=scale)
    return out[..., :channels].transpose(1, 2)


class _AttentionByRows(torch.autograd.Function):
    """The kernels of `attention_kernels`, with gradients for queries, keys, values and bias table."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, table: Tensor, index: Tensor, regions: Tensor | None, scale: float) -> Tensor:
        windows, n, _, heads, channels = qkv.shape
        qkv = qkv.contiguous()
        if regions is None:
            regions = torch.zeros((1, n), dtype=torch.int8)
        bias = table.new_empty((heads, n, kernels.row_length(n)))
        kernels.gather_bias(table.detach().numpy(), index.numpy(), bias.numpy())
        out, denominators = qkv.new_empty((windows, n, heads, channels)), qkv.new_empty((heads, windows, n))
        inputs = qkv.detach().numpy(), bias.numpy(), regions.numpy(), _like(scale, qkv)
        outputs = out.numpy(), denominators.numpy()
        share(heads * windows, lambda first, last: kernels.forward(*inputs, first, last, *outputs))
        ctx.save_for_backward(qkv, bias, index, regions, out, denominators)
        ctx.scale, ctx.distances = scale, len(table)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        qkv, bias, index, regions, out, denominators = ctx.saved_tensors
        windows, _, _, heads, _ = qkv.shape
        grad_qkv, grad_bias = torch.empty_like(qkv), torch.zeros_like(bias)
        inputs = qkv.detach().numpy(), bias.numpy(), regions.numpy(), _like(ctx.scale, qkv)
        kept = out.detach().numpy(), denominators.numpy(), grad.contiguous().numpy(), grad_qkv.numpy()

        def work(first: int, last: int) -> tuple[int, Tensor]:
            own = torch.zeros_like(bias[first // windows : (last - 1) // windows + 1])
            kernels.backward(*inputs, first, last, *kept, own.numpy())
            return first // windows, own

        for head, own in share(heads * windows, work):
            grad_bias[head : head + len(own)] += own
        grad_table = bias.new_zeros((ctx.distances, heads))
        kernels.scatter_bias(grad_bias.numpy(), index.numpy(), grad_table.numpy())
        return grad_qkv, grad_table, None, None, None


def _like(number: float, tensor: Tensor) -> Any:
    """Return a number of a tensor's precision."""
    return tensor.new_tensor(number).numpy()[()]
