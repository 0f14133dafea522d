"""The transformer of a Swin-UNETR in OpenVINO's operations: windows, attention, merging."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.networks.nets.swin_unetr import get_window_size
from openvino import opset13 as ops

from napari_pcs.models.attention_kernels import REGION_PENALTY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_pcs.inference.weights import Weights

__all__ = ["Tokens", "constant", "layer_norm", "linear", "whole_numbers"]

_EPSILON = 1e-5
_CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""Order in which MONAI's PatchMerging joins the eight tokens of a block."""


def constant(values: ArrayLike) -> Any:
    """Return a constant of single precision."""
    return ops.constant(np.array(values, dtype=np.float32, order="C"))


def whole_numbers(values: Sequence[int]) -> Any:
    """Return a constant of whole numbers, such as axes or sides."""
    return ops.constant(np.array(values, dtype=np.int64))


def linear(x: Any, weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> Any:
    """Return x W^T + b."""
    product = ops.matmul(x, constant(weight), transpose_a=False, transpose_b=True)
    return product if bias is None else ops.add(product, constant(bias))


def layer_norm(x: Any, weights: Weights | None = None) -> Any:
    """Normalise over the last axis, then scale and shift where there are weights."""
    y = ops.mvn(x, whole_numbers([-1]), normalize_variance=True, eps=_EPSILON, eps_mode="INSIDE_SQRT")
    if weights is None:
        return y
    return ops.add(ops.multiply(y, constant(weights["weight"])), constant(weights["bias"]))


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of a whole image.

    Attributes
    ----------
    values
        Node (x, y, z, channel).
    sides
        Tokens along each axis.
    """

    values: Any
    sides: tuple[int, ...]

    def after_block(self, block: Any, weights: Weights) -> Tokens:
        """Return the tokens after one of MONAI's SwinTransformerBlocks."""
        window, shift = get_window_size(self.sides, block.window_size, block.shift_size)
        y = layer_norm(self.values, weights.below("norm1"))
        x = ops.add(self.values, _in_windows(block.attn, weights.below("attn"), y, self.sides, window, shift))
        y = layer_norm(x, weights.below("norm2"))
        mlp = weights.below("mlp")
        y = ops.gelu(linear(y, mlp["linear1.weight"], mlp["linear1.bias"]), "erf")
        return Tokens(ops.add(x, linear(y, mlp["linear2.weight"], mlp["linear2.bias"])), self.sides)

    def merged(self, weights: Weights) -> Tokens:
        """Return the tokens of MONAI's PatchMerging: one for each block of eight, of twice the channels."""
        x = _padded(self.values, [side % 2 for side in self.sides])
        ends = [side + side % 2 for side in self.sides]
        parts = [_cut(x, corner, ends, step=2) for corner in _CORNERS]
        x = linear(layer_norm(ops.concat(parts, 3), weights.below("norm")), weights["reduction.weight"])
        return Tokens(x, tuple(end // 2 for end in ends))


def _in_windows(
    attention: Any, weights: Weights, x: Any, sides: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> Any:
    """Attend within windows, whose edges are moved by a cyclic shift."""
    grid = [-(-side // width) for side, width in zip(sides, window, strict=True)]
    padded = [n * width for n, width in zip(grid, window, strict=True)]
    axes = whole_numbers([0, 1, 2])
    x = _padded(x, [after - before for after, before in zip(padded, sides, strict=True)])
    if any(shift):
        x = ops.roll(x, whole_numbers([-by for by in shift]), axes)
    cut = [n for pair in zip(grid, window, strict=True) for n in pair]
    x = ops.transpose(_shaped(x, [*cut, attention.dim]), whole_numbers([0, 2, 4, 1, 3, 5, 6]))
    x = _attended(attention, weights, _shaped(x, [-1, prod(window), attention.dim]), grid, window, shift)
    x = ops.transpose(_shaped(x, [*grid, *window, attention.dim]), whole_numbers([0, 3, 1, 4, 2, 5, 6]))
    x = _shaped(x, [*padded, attention.dim])
    if any(shift):
        x = ops.roll(x, whole_numbers(list(shift)), axes)
    return x if padded == list(sides) else _cut(x, (0, 0, 0), sides)


def _attended(
    attention: Any, weights: Weights, x: Any, grid: list[int], window: tuple[int, ...], shift: tuple[int, ...]
) -> Any:
    """MONAI's WindowAttention of all windows (windows, tokens, channel)."""
    n, heads, dim = prod(window), attention.num_heads, attention.dim
    index = weights.whole("relative_position_index")[:n, :n]
    bias = weights["relative_position_bias_table"][index].transpose(2, 0, 1)
    weight, added = weights["qkv.weight"].reshape(3, dim, dim), weights["qkv.bias"].reshape(3, dim)
    split = [-1, n, heads, dim // heads]
    q, k, v = (
        ops.transpose(_shaped(linear(x, weight[i] * by, added[i] * by), split), whole_numbers([0, 2, 1, 3]))
        for i, by in enumerate(np.array([attention.scale, 1, 1], dtype=np.float32))
    )
    y = _Shifted(bias, grid, window, shift).attend(q, k, v) if any(shift) else _attend(q, k, v, bias)
    y = _shaped(ops.transpose(y, whole_numbers([0, 2, 1, 3])), [-1, n, dim])
    return linear(y, weights["proj.weight"], weights["proj.bias"])


def _attend(q: Any, k: Any, v: Any, bias: NDArray[np.float32]) -> Any:
    """Attend (windows, heads, tokens, channel); OpenVINO fuses this, so the scores are never written."""
    scores = ops.add(ops.matmul(q, k, transpose_a=False, transpose_b=True), constant(bias[None]))
    return ops.matmul(ops.softmax(scores, -1), v, transpose_a=False, transpose_b=False)


class _Shifted:
    """Attention in shifted windows.

    Only the last window along an axis holds tokens that the shift brought together from opposite
    sides, which do not attend to each other. So there are at most eight kinds of windows, and each
    kind attends with a bias of its own; MONAI keeps a mask for every window.
    """

    def __init__(
        self, bias: NDArray[np.float32], grid: list[int], window: tuple[int, ...], shift: tuple[int, ...]
    ) -> None:
        self.bias, self.grid, self.window, self.shift = bias, grid, window, shift

    def attend(self, q: Any, k: Any, v: Any) -> Any:
        """Attend (windows, heads, tokens, channel)."""
        tail = list(q.get_output_shape(0))[1:]
        parts = [_shaped(part, [*self.grid, *tail]) for part in (q, k, v)]
        return _shaped(self._along(0, parts, (), list(self.grid), tail), [-1, *tail])

    def _along(self, axis: int, parts: list[Any], last: tuple[bool, ...], grid: list[int], tail: list[int]) -> Any:
        if axis == len(grid):
            q, k, v = (_shaped(part, [-1, *tail]) for part in parts)
            return _shaped(_attend(q, k, v, self._bias(last)), [*grid, *tail])
        if not self.shift[axis]:
            return self._along(axis + 1, parts, (*last, False), grid, tail)
        kinds = []
        for is_last, first, end in ((False, 0, grid[axis] - 1), (True, grid[axis] - 1, grid[axis])):
            if first < end:
                some = parts if end - first == grid[axis] else [_between(part, axis, first, end) for part in parts]
                fewer = [*grid[:axis], end - first, *grid[axis + 1 :]]
                kinds.append(self._along(axis + 1, some, (*last, is_last), fewer, tail))
        return kinds[0] if len(kinds) == 1 else ops.concat(kinds, axis)

    def _bias(self, last: tuple[bool, ...]) -> NDArray[np.float32]:
        """Return the bias of windows that are the last along some axes, with a penalty between regions."""
        region = np.zeros(self.window, dtype=np.int8)
        for axis, (width, by, is_last) in enumerate(zip(self.window, self.shift, last, strict=True)):
            if is_last:
                line = (np.arange(width) >= width - by).astype(np.int8) << axis
                region += line.reshape([-1 if a == axis else 1 for a in range(3)])
        flat = region.reshape(-1)
        return np.where(flat[:, None] != flat[None, :], self.bias - np.float32(REGION_PENALTY), self.bias)


def _shaped(x: Any, sides: Sequence[int]) -> Any:
    return ops.reshape(x, whole_numbers(sides), special_zero=False)


def _padded(x: Any, after: Sequence[int]) -> Any:
    """Append zeros to the first three axes."""
    if not any(after):
        return x
    return ops.pad(x, whole_numbers([0, 0, 0, 0]), whole_numbers([*after, 0]), "constant", constant(0.0))


def _cut(x: Any, first: Sequence[int], end: Sequence[int], step: int = 1) -> Any:
    return ops.slice(x, whole_numbers(first), whole_numbers(end), whole_numbers([step] * 3), whole_numbers([0, 1, 2]))


def _between(x: Any, axis: int, first: int, end: int) -> Any:
    return ops.slice(x, whole_numbers([first]), whole_numbers([end]), whole_numbers([1]), whole_numbers([axis]))
