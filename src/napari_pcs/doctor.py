"""What is installed, what this machine can do, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from napari_pcs import __version__

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["examine", "has_display"]

_PACKAGES = (
    "napari",
    "torch",
    "monai",
    "nibabel",
    "nilearn",
    "numba",
    "SimpleITK",
    "antspyx",
    "qtpy",
    "PyQt6",
    "PySide6",
)
_BINDINGS = ("PyQt6", "PySide6")


def has_display() -> bool:
    """Say whether a window can be opened (always true on macOS and Windows)."""
    if sys.platform != "linux":
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def examine() -> dict[str, Any]:
    """Return versions, devices, models and a list of advice; nothing is changed."""
    import torch

    from napari_pcs.caches import cache_usage
    from napari_pcs.data.cache import cache_root
    from napari_pcs.models.device import available_devices, free_memory
    from napari_pcs.models.folders import list_models

    packages = {name: _version(name) for name in _PACKAGES}
    devices = available_devices()
    return {
        "napari_pcs": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "devices": [{"name": d, "free_memory_mb": free_memory(torch.device(d)) / 1e6} for d in devices],
        "display": has_display(),
        "models": [{"name": m.name, "digest": m.digest} for m in list_models()],
        "cache": {"folder": str(cache_root()), "bytes": sum(part.size_bytes for part in cache_usage())},
        "advice": [*_advice(devices, packages), *_cache_advice(cache_root())],
    }


def _cache_advice(folder: Path) -> list[str]:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return []
    return [f"Nothing can be kept in {folder}: let NAPARI_PCS_CACHE name a folder that can be written."]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _advice(devices: list[str], packages: dict[str, str | None]) -> list[str]:
    advice = []
    if not any(find_spec(binding) for binding in _BINDINGS):
        advice.append('No Qt binding: install one with pip install "napari[pyqt6]".')
    if not has_display():
        advice.append("No display: use --no-gui, or run under Xvfb.")
    if devices == ["cpu"]:
        advice.append("No GPU: a prediction takes seconds instead of a fraction of one.")
    if packages["antspyx"] is None:
        advice.append('No ANTs: raw T1 scans cannot be segmented; install it with pip install "napari-pcs[t1]".')
    napari = packages["napari"]
    if napari and napari.startswith("0.9.0"):
        advice.append("napari 0.9.0 lays docks out differently: update to 0.9.1 or later.")
    return advice
