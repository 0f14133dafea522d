"""Window attention on a CPU, one row of scores at a time, so that no score ever leaves the cache.

A window of 7 x 7 x 7 tokens has 343^2 scores a head, but only a few channels a head: written out,
as matrix products do, the scores are tens of times larger than all else. These kernels hold one row
of them (1.4 kB); the backward pass computes the rows again from the queries, the keys and the
logarithm of the softmax's denominator (Dao et al. 2022, FlashAttention, section 3.1).

Arrays: `qkv` is (window, token, 3, head, channel), as the linear layer leaves it; `bias` is (head,
token, row), minus infinity in the padding of the row; `regions` is (mask, token), where window w has
mask w % masks: scores between tokens of two regions are lowered by 100. A (head, window) pair is a
*task*, numbered head * windows + window; a range of tasks is what one thread does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numba import njit, types
from numba.extending import overload

if TYPE_CHECKING:
    from collections.abc import Callable

Kernel = TypeVar("Kernel", bound="Callable[..., Any]")

__all__ = ["backward", "forward", "gather_bias", "row_length", "scatter_bias"]

REGION_PENALTY = 100.0
"""What MONAI's and the authors' Swin subtract from scores between regions."""
_LANES = 16
"""Rows are padded to a multiple of this."""
_GROUP = 4
"""Channels of a head that are summed in one pass over a row; channels are padded to a multiple."""

_LOG2E = np.float32(1.4426950408889634)
_MAGIC = np.float32(12582912.0)
"""1.5 * 2^23: adding it to a small number leaves the nearest integer in the low bits."""
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)
_E0, _E1, _E2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_E3, _E4, _E5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_ONE, _BITS = np.float32(1), np.int32(23)

# Sums may be reordered, or they would not be computed in vectors; NaN and infinity have to show.
_sums: Callable[[Kernel], Kernel] = njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
_exact: Callable[[Kernel], Kernel] = njit(cache=True, nogil=True, fastmath={"contract"})


def row_length(tokens: int) -> int:
    """Return the length of a padded row of scores."""
    return -(-tokens // _LANES) * _LANES


def _exp(x: Any) -> Any:
    return math.exp(x)


@overload(_exp, jit_options={"fastmath": {"contract"}})  # type: ignore[untyped-decorator]
def _overload_exp(x: Any) -> Any:
    """Exponential of x <= 0: the library's in double precision, one that becomes vectors in single.

    Cephes' expf (Moshier 1992), within 2 units in the last place; 0 below -87.
    """
    if x != types.float32:

        def double(x: Any) -> Any:
            return math.exp(x)

        return double

    def single(x: Any) -> Any:
        y = _LOWEST if x < _LOWEST else x  # noqa: FURB136  NaN has to stay
        shifted = y * _LOG2E + _MAGIC
        whole = shifted - _MAGIC
        rest = (y - whole * _LN2_HIGH) - whole * _LN2_LOW
        p = ((((_E0 * rest + _E1) * rest + _E2) * rest + _E3) * rest + _E4) * rest + _E5
        p = (p * rest * rest + rest) + _ONE
        scaled = np.int32(np.int32(np.float32(shifted).view(np.int32) << _BITS) + np.float32(p).view(np.int32))
        return np.float32(0) if x < _LOWEST else scaled.view(np.float32)

    return single


@_exact
def _exponentials_of(row: Any, shift: Any) -> None:
    for j in range(row.size):
        row[j] = _exp(row[j] - shift)


@_exact
def _largest_of(row: Any, lanes: Any) -> Any:
    """Return the largest of a row, lane by lane, which is how it becomes vectors."""
    lanes[:] = row[:_LANES]
    for start in range(_LANES, row.size, _LANES):
        for lane in range(_LANES):
            value = row[start + lane]
            lanes[lane] = value if value > lanes[lane] else lanes[lane]  # noqa: FURB136  as above
    return lanes.max()


@_sums
def _sum_of(row: Any) -> Any:
    total = row.dtype.type(0)
    for j in range(row.size):
        total += row[j]
    return total


@_sums
def _combine(weights: Any, vectors: Any, row: Any) -> None:
    """Add the weighted sum of vectors (channel, row) to a row."""
    for d in range(0, weights.size, _GROUP):
        a, b, c, e = weights[d], weights[d + 1], weights[d + 2], weights[d + 3]
        for j in range(row.size):
            row[j] += a * vectors[d, j] + b * vectors[d + 1, j] + c * vectors[d + 2, j] + e * vectors[d + 3, j]


@_sums
def _project(row: Any, vectors: Any, out: Any, factor: Any) -> None:
    """Set `out` (channel) to the products of a row with vectors (channel, row), times a factor."""
    zero = row.dtype.type(0)
    for d in range(0, out.size, _GROUP):
        a, b, c, e = zero, zero, zero, zero
        for j in range(row.size):
            value = row[j]
            a += value * vectors[d, j]
            b += value * vectors[d + 1, j]
            c += value * vectors[d + 2, j]
            e += value * vectors[d + 3, j]
        out[d], out[d + 1], out[d + 2], out[d + 3] = a * factor, b * factor, c * factor, e * factor


@_sums
def _spread(row: Any, weights: Any, vectors: Any) -> None:
    """Add the outer product of weights and a row to vectors (channel, row)."""
    for d in range(0, weights.size, _GROUP):
        a, b, c, e = weights[d], weights[d + 1], weights[d + 2], weights[d + 3]
        for j in range(row.size):
            value = row[j]
            vectors[d, j] += a * value
            vectors[d + 1, j] += b * value
            vectors[d + 2, j] += c * value
            vectors[d + 3, j] += e * value


@_exact
def _penalise(row: Any, region: Any, own: Any) -> None:
    penalty, none = row.dtype.type(REGION_PENALTY), row.dtype.type(0)
    for j in range(region.size):
        row[j] -= none if region[j] == own else penalty


@_exact
def _multiply(row: Any, grad_row: Any, total: Any) -> None:
    """Turn the gradient of a row of probabilities into that of its scores, and add it to a total."""
    for j in range(row.size):
        value = row[j] * grad_row[j]
        grad_row[j] = value
        total[j] += value


@_exact
def _transpose(source: Any, target: Any) -> None:
    """Copy (token, channel) to (channel, row)."""
    for i in range(source.shape[0]):
        for d in range(source.shape[1]):
            target[d, i] = source[i, d]


@_exact
def _is_mixed(region: Any) -> bool:
    return region.min() != region.max()  # type: ignore[no-any-return]


@_exact
def forward(qkv: Any, bias: Any, regions: Any, scale: Any, first: int, last: int, out: Any, denominators: Any) -> None:
    """Attend in tasks `first` to `last`, exclusively.

    Fills `out` (window, token, head, channel) and `denominators` (head, window, token): the logarithm
    of the softmax's.
    """
    windows, n, _, _, channels = qkv.shape
    dtype, length = qkv.dtype, bias.shape[2]
    padded = (channels + _GROUP - 1) // _GROUP * _GROUP
    keys, values = np.zeros((padded, length), dtype), np.zeros((padded, length), dtype)
    query, result = np.zeros(padded, dtype), np.zeros(padded, dtype)
    row, lanes = np.empty(length, dtype), np.empty(_LANES, dtype)
    for task in range(first, last):
        h, w = task // windows, task % windows
        _transpose(qkv[w, :, 1, h], keys)
        _transpose(qkv[w, :, 2, h], values)
        region = regions[w % regions.shape[0]]
        mixed = _is_mixed(region)
        for i in range(n):
            for d in range(channels):
                query[d] = qkv[w, i, 0, h, d] * scale
            row[:] = bias[h, i]
            _combine(query, keys, row)
            if mixed:
                _penalise(row, region, region[i])
            largest = _largest_of(row, lanes)
            _exponentials_of(row, largest)
            total = _sum_of(row)
            _project(row, values, result, 1 / total)
            out[w, i, h] = result[:channels]
            denominators[h, w, i] = largest + math.log(total)


@_exact
def backward(
    qkv: Any,
    bias: Any,
    regions: Any,
    scale: Any,
    first: int,
    last: int,
    out: Any,
    denominators: Any,
    grad_out: Any,
    grad_qkv: Any,
    grad_bias: Any,
) -> None:
    """Go back through `forward`: fill `grad_qkv`, and add to `grad_bias`.

    `grad_bias` (head, token, row) starts at the head of the first task, so that each thread has one.
    With P the softmax's output: dS = P * (dP - sum(out * grad_out)) (Dao et al. 2022, appendix B.2).
    """
    windows, n, _, _, channels = qkv.shape
    dtype, length = qkv.dtype, bias.shape[2]
    padded = (channels + _GROUP - 1) // _GROUP * _GROUP
    keys, values = np.zeros((padded, length), dtype), np.zeros((padded, length), dtype)
    grad_keys, grad_values = np.zeros((padded, length), dtype), np.zeros((padded, length), dtype)
    query, grad, grad_query = np.zeros(padded, dtype), np.zeros(padded, dtype), np.zeros(padded, dtype)
    row, grad_row = np.empty(length, dtype), np.empty(length, dtype)
    for task in range(first, last):
        h, w = task // windows, task % windows
        _transpose(qkv[w, :, 1, h], keys)
        _transpose(qkv[w, :, 2, h], values)
        grad_keys[:] = 0
        grad_values[:] = 0
        region = regions[w % regions.shape[0]]
        mixed = _is_mixed(region)
        for i in range(n):
            carried = dtype.type(0)
            for d in range(channels):
                query[d] = qkv[w, i, 0, h, d] * scale
                grad[d] = grad_out[w, i, h, d]
                carried += grad[d] * out[w, i, h, d]
            row[:] = bias[h, i]
            _combine(query, keys, row)
            if mixed:
                _penalise(row, region, region[i])
            _exponentials_of(row, denominators[h, w, i])
            grad_row[:] = -carried
            _combine(grad, values, grad_row)
            _spread(row, grad, grad_values)
            _multiply(row, grad_row, grad_bias[h - first // windows, i])
            _spread(grad_row, query, grad_keys)
            _project(grad_row, keys, grad_query, scale)
            grad_qkv[w, i, 0, h] = grad_query[:channels]
        for i in range(n):
            for d in range(channels):
                grad_qkv[w, i, 1, h, d] = grad_keys[d, i]
                grad_qkv[w, i, 2, h, d] = grad_values[d, i]


@_exact
def gather_bias(table: Any, index: Any, bias: Any) -> None:
    """Fill `bias` (head, token, row) from a table (distance, head) by an index (token, token)."""
    for h in range(bias.shape[0]):
        for i in range(index.shape[0]):
            for j in range(index.shape[1]):
                bias[h, i, j] = table[index[i, j], h]
            bias[h, i, index.shape[1] :] = -np.inf


@_exact
def scatter_bias(grad_bias: Any, index: Any, grad_table: Any) -> None:
    """Add a gradient (head, token, row) to that of the table (distance, head)."""
    for h in range(grad_bias.shape[0]):
        for i in range(index.shape[0]):
            for j in range(index.shape[1]):
                grad_table[index[i, j], h] += grad_bias[h, i, j]
