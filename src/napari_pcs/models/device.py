"""Which device computes, and how much memory it has left."""

from __future__ import annotations

from typing import Literal

import psutil
import torch

from napari_pcs.errors import ModelError
from napari_pcs.heap import give_back
from napari_pcs.models.cgroup import memory_left

__all__ = [
    "DeviceName",
    "available_devices",
    "choose_device",
    "free_memory",
    "is_device_lost",
    "is_out_of_memory",
    "peak_memory_mb",
    "reset_peak_memory",
]

_LITTLE = 8 * 2**30
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_LOST = ("CUDA error", "CUDA driver error", "HIP error")

DeviceName = Literal["auto", "cuda", "mps", "cpu"]


def available_devices() -> list[str]:
    """Return the usable devices, fastest first; the CPU is always the last."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name, or the fastest one for "auto".

    Raises
    ------
    ModelError
        If this machine does not have it.
    """
    devices = available_devices()
    if name == "auto":
        return torch.device(devices[0])
    if name not in devices:
        msg = f"Device {name}: found {', '.join(devices)} on this machine, expected one of these or auto."
        raise ModelError(msg)
    return torch.device(name)


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be used on a device.

    On a GPU what PyTorch holds without using it counts as free. Elsewhere a container's limit counts
    where it is lower than what the machine has. Where there is little, what this process has freed
    and kept is given back first.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    found = _free_here()
    if found < _LITTLE:
        give_back()
        found = _free_here()
    return found


def _free_here() -> int:
    available = int(psutil.virtual_memory().available)
    left = memory_left()
    return available if left is None else min(available, left)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out; libraries say so in several ways."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Say whether an error means that a GPU has failed or is gone: nothing more can be done on it in this process."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    failed: type[BaseException] | tuple[()] = getattr(torch, "AcceleratorError", ())  # from PyTorch 2.8 on
    return isinstance(error, failed) or any(sign in str(error) for sign in _LOST)


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak device memory, where the device keeps one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB: allocated on a CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return process_memory_mb()


def process_memory_mb() -> float:
    """Return the resident memory of this process in MB."""
    return float(psutil.Process().memory_info().rss) / 1e6
