"""In which precision a device is fastest without emulating anything."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Precision", "best_precision", "computing_in"]

Precision = Literal["fp32", "bf16", "fp16"]

_TENSOR_CORES = (7, 0)
"""Compute capability from which a GPU multiplies float16 faster than float32."""
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def best_precision(device: torch.device) -> Precision:
    """Return the precision in which a network's passes are fastest on a device.

    Half precision only where the hardware has it: PyTorch computes bfloat16 on any CPU, but on one
    without instructions for it 50 to 100 times slower than float32.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= _TENSOR_CORES else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bfloat16() else "fp32"


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which matrix products and convolutions are computed in a precision.

    PyTorch's autocast leaves layer normalisation, softmax and sums in float32.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _TYPES[precision])


def _cpu_has_bfloat16() -> bool:
    """Say whether the processor multiplies bfloat16 itself (AVX512-BF16 or AMX) and oneDNN makes use of it."""
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):  # type: ignore[no-untyped-call]  # noqa: SLF001
        return False
    return any(_cpu_says(name) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def _cpu_says(name: str) -> bool:
    asked = getattr(torch.cpu, name, None)  # not in every release of PyTorch
    return asked is not None and bool(asked())
