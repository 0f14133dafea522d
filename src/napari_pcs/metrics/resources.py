"""Peak memory while a block of work runs, and how busy a GPU was with it."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from statistics import fmean
from typing import TYPE_CHECKING, Self

from napari_pcs.metrics.gpu import Gauge, gauges_of
from napari_pcs.models.device import peak_memory_mb, process_memory_mb, reset_peak_memory

if TYPE_CHECKING:
    from types import TracebackType

    import torch

__all__ = ["DeviceWatch", "MemoryWatch"]

_INTERVAL_S = 0.05
_GPU_INTERVAL_S = 0.2
"""The driver averages utilisation over a sixth of a second to a second."""


class MemoryWatch:
    """Context manager that records the peak memory of the block it encloses.

    On a CUDA device the peak that PyTorch allocated there; elsewhere the largest resident memory of
    the process, sampled every 50 ms.

    Attributes
    ----------
    peak_mb
        The peak so far, in MB.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak_mb = 0.0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        reset_peak_memory(self.device)
        self.peak_mb = peak_memory_mb(self.device)
        if self.device.type != "cuda":
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        self.peak_mb = max(self.peak_mb, peak_memory_mb(self.device))

    def _sample(self) -> None:
        while not self._done.wait(_INTERVAL_S):
            self.peak_mb = max(self.peak_mb, process_memory_mb())


class DeviceWatch:
    """Context manager that records memory, utilisation and power of the block it encloses.

    Utilisation and power are of the whole GPU, whoever uses it, as its driver tells (NVML), sampled
    every 0.2 s and at the end. Enter it once.

    Attributes
    ----------
    utilisation
        Mean share of the time [0, 1] in which the GPU computed; None where the driver does not say,
        and on any other device.
    power_w
        Mean power of the GPU in W, or None.
    """

    def __init__(self, device: torch.device) -> None:
        self._memory = MemoryWatch(device)
        self._device = device
        self._gauges: dict[str, Gauge] = {}
        self._done = threading.Event()
        self._stack = ExitStack()

    @property
    def peak_mb(self) -> float:
        """Peak memory in MB, as of `MemoryWatch`."""
        return self._memory.peak_mb

    @property
    def utilisation(self) -> float | None:
        """Mean share of the time [0, 1] in which the GPU computed, or None."""
        return self._mean("utilisation")

    @property
    def power_w(self) -> float | None:
        """Mean power of the GPU in W, or None."""
        return self._mean("power_w")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._memory)
            self._gauges = stack.enter_context(gauges_of(self._device))
            if self._gauges:
                thread = threading.Thread(target=self._sample, daemon=True)
                thread.start()
                stack.callback(self._end, thread)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _sample(self) -> None:
        while not self._done.wait(_GPU_INTERVAL_S):
            self._read()

    def _end(self, thread: threading.Thread) -> None:
        self._done.set()
        thread.join()
        self._read()

    def _read(self) -> None:
        for gauge in self._gauges.values():
            gauge.read()

    def _mean(self, name: str) -> float | None:
        gauge = self._gauges.get(name)
        return fmean(gauge.values) if gauge and gauge.values else None
