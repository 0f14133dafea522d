"""Peak memory while a block of work runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from napari_pcs.models.device import peak_memory_mb, process_memory_mb, reset_peak_memory

if TYPE_CHECKING:
    from types import TracebackType

    import torch

__all__ = ["MemoryWatch"]

_INTERVAL_S = 0.05


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
