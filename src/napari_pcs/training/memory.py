"""How many samples fit into memory at a time, found by trying one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_pcs.metrics.resources import MemoryWatch
from napari_pcs.models.device import peak_memory_mb
from napari_pcs.training.buffers import buffers_kept

if TYPE_CHECKING:
    from napari_pcs.objectives.task import Batch
    from napari_pcs.training.step import Passes

__all__ = ["fitting_micro_batch"]

_SHARE = 0.8
"""Of the free memory that a batch may fill; optimisers and libraries want some too."""


def fitting_micro_batch(passes: Passes, batch: Batch, turns: tuple[str, ...]) -> int:
    """Return the largest micro-batch that fits, at least 1, the same for all processes.

    One sample goes forwards and backwards, and its peak of memory is taken for that of each. Its
    gradients are dropped, and buffers such as running statistics are put back.

    Raises
    ------
    OutOfMemoryError
        If not even one sample fits.
    """
    task, processes = passes.task, passes.processes
    size = len(next(iter(batch.values())))
    few = 2 if task.compares else 1
    if size <= few:
        return size
    one = {name: tensor[:few].to(processes.device) for name, tensor in batch.items()}
    free, peak = processes.free_memory, _peak(passes, one, turns)
    fits = int(_SHARE * free / max(peak / few, 1.0))
    return processes.smallest(max(1, min(size, fits)))


def _peak(passes: Passes, batch: Batch, turns: tuple[str, ...]) -> float:
    """Bytes that a pass needs on top of what there is."""
    device = passes.processes.device
    before = torch.cuda.memory_allocated(device) / 1e6 if device.type == "cuda" else peak_memory_mb(device)
    with buffers_kept(passes.task) as restore, MemoryWatch(device) as watch:
        for turn in turns:
            passes.backward(batch, turn, len(next(iter(batch.values()))))
        restore()
    passes.task.zero_grad(set_to_none=True)
    return (watch.peak_mb - before) * 1e6
