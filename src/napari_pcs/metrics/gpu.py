"""What the driver of an NVIDIA GPU tells about it (NVML), as far as it does."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Gauge", "gauges_of"]

_log = logging.getLogger(__name__)


class Gauge:
    """One figure, read again and again; it stays silent from the first time that the driver refuses.

    Attributes
    ----------
    values
        What was read so far.
    """

    def __init__(self, name: str, ask: Callable[[], float], refusal: type[Exception]) -> None:
        self.values: list[float] = []
        self._name, self._ask, self._refusal = name, ask, refusal
        self._works = True

    def read(self) -> None:
        """Read once more."""
        if not self._works:
            return
        try:
            self.values.append(self._ask())
        except self._refusal as error:
            self._works = False
            _log.info("The GPU's %s is not known from here on: %s", self._name, error)


@contextmanager
def gauges_of(device: torch.device) -> Iterator[dict[str, Gauge]]:
    """Give the gauges of a device for a block of work: utilisation [0, 1] and power_w (W).

    Empty for a device that is not a GPU of NVIDIA's, or whose driver cannot be asked.
    """
    if device.type != "cuda" or torch.version.hip:
        yield {}
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.info("The GPU's driver cannot be asked: %s", error)
        yield {}
        return
    try:
        yield _gauges(pynvml, device)
    finally:
        pynvml.nvmlShutdown()


def _gauges(pynvml: Any, device: torch.device) -> dict[str, Gauge]:
    # By its UUID: CUDA may show fewer GPUs than there are, and in another order.
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError as error:
        _log.info("The driver does not know the GPU %s: %s", uuid, error)
        return {}
    ask: dict[str, Callable[[], float]] = {
        "utilisation": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }
    return {name: Gauge(name, read, pynvml.NVMLError) for name, read in ask.items()}
