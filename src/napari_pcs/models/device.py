"""Which device computes, and how much memory it has left."""

from __future__ import annotations

from typing import Literal

import psutil
import torch

from napari_pcs.errors import ModelError

__all__ = ["DeviceName", "available_devices", "choose_device", "free_memory", "peak_memory_mb", "reset_peak_memory"]

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
    """Return the bytes that can still be used on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


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
