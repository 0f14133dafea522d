"""Batches in an order, at places and with views that the seed, the epoch and the slot decide.

Nothing depends on what was drawn before, so that a resumed run, or another number of processes,
meets the same samples.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from napari_pcs.data.health import Failure, draw_or_replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_pcs.data.patch import PatchSource
    from napari_pcs.objectives import Objective, ObjectiveConfig
    from napari_pcs.objectives.task import Batch
    from napari_pcs.training.processes import Processes

__all__ = ["Batches", "Drawn", "PatchBatches"]

VALIDATION = 2**31 - 1
"""The "epoch" of the samples that judge: the same ones every time."""


class Drawn(NamedTuple):
    """One batch of this process, and the files that could not be read for it."""

    batch: Batch
    failures: tuple[Failure, ...] = ()


class Batches(Protocol):
    """What a loop goes through."""

    steps_per_epoch: int

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Drawn]:
        """Yield this process's batches of an epoch, from a step of it on."""

    def validation(self) -> Iterator[Drawn]:
        """Yield the batches that judge; none if nobody was held out."""


class Slot(NamedTuple):
    """Place of a sample in all that is drawn: its epoch, its number in it, and its hemisphere."""

    epoch: int
    number: int
    hemisphere: int


def slots_of(epoch: int, indices: Sequence[int], times: int, size: int, seed: int) -> list[Slot]:
    """Return the slots of an epoch: each index so many times, shuffled, filled up to whole batches.

    Parameters
    ----------
    epoch
        Decides the order, with the seed.
    indices
        Of the hemispheres.
    times
        Samples of each.
    size
        Samples of a batch of all processes.
    """
    order = np.repeat(np.asarray(indices), times)
    order = order[np.random.default_rng([seed, epoch]).permutation(len(order))]
    filled = np.resize(order, -(-len(order) // size) * size)
    return [Slot(epoch, number, int(index)) for number, index in enumerate(filled)]


_Sample = tuple[dict[str, Any] | None, tuple[Failure, ...]]
"""Arrays by name, None if no file could be read; and what failed."""


@dataclass(frozen=True, eq=False)
class _Samples(Dataset["_Sample"]):
    """Draws and views one sample; lives in the reading processes, so it knows no network."""

    source: PatchSource
    objective: type[Objective]
    settings: ObjectiveConfig
    size: tuple[int, ...]
    training: Sequence[int]
    held_out: Sequence[int]
    tries: int
    seed: int

    def __getitem__(self, slot: Slot) -> _Sample:
        rng = np.random.default_rng([self.seed, slot.epoch, slot.number])
        region = self.objective.region(self.size, self.settings)
        among = self.held_out if slot.epoch == VALIDATION else self.training
        patch, failures = draw_or_replace(self.source, slot.hemisphere, region, rng, self.tries, among)
        if patch is None:
            return None, failures
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            return self.objective.sample(patch, self.size, self.settings, rng), failures


def _collate(samples: list[_Sample]) -> Drawn:
    """Stack samples; the batch is empty if one is missing, which ends the run for the failures that come with it."""
    failures = tuple(failure for _, failed in samples for failure in failed)
    drawn = [arrays for arrays, _ in samples if arrays is not None]
    if len(drawn) < len(samples):
        return Drawn({}, failures)
    return Drawn({name: torch.stack([torch.as_tensor(a[name]) for a in drawn]) for name in drawn[0]}, failures)


class PatchBatches:
    """Batches of patches for an objective.

    Parameters
    ----------
    source
        Where patches come from.
    training, held_out
        Indices of hemispheres in it.
    objective, settings, size
        What makes samples of them.
    times
        Patches of each hemisphere in an epoch.
    batch_size
        Samples per process.
    tries
        Files to try for one sample; see `napari_pcs.data.health`.
    seed
        Decides everything random.
    processes
        Which share of a batch is ours.
    workers
        Processes that read ahead; by default none on a CPU, where they would take the network's cores.
    """

    def __init__(
        self,
        source: PatchSource,
        training: Sequence[int],
        held_out: Sequence[int],
        objective: type[Objective],
        settings: ObjectiveConfig,
        size: tuple[int, ...],
        *,
        times: int,
        batch_size: int,
        tries: int,
        seed: int,
        processes: Processes,
        workers: int | None = None,
    ) -> None:
        self._samples = _Samples(source, objective, settings, size, training, held_out, tries, seed)
        self._training, self._held_out, self._times = training, held_out, times
        self._batch_size, self._seed, self._processes = batch_size, seed, processes
        on_gpu = processes.device.type == "cuda"
        self._workers = min(8, max(1, (os.cpu_count() or 2) - 1)) if workers is None and on_gpu else workers or 0
        self._pin = on_gpu
        self.steps_per_epoch = len(slots_of(0, training, times, self._together, seed)) // self._together

    @property
    def _together(self) -> int:
        return self._batch_size * self._processes.count

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Drawn]:
        """Yield this process's batches of an epoch, from a step of it on."""
        yield from self._load(slots_of(epoch, self._training, self._times, self._together, self._seed), first_step)

    def validation(self) -> Iterator[Drawn]:
        """Yield the held-out hemispheres' batches, the same ones every time."""
        if self._held_out:
            yield from self._load(slots_of(VALIDATION, self._held_out, 1, self._together, self._seed), 0)

    def _load(self, slots: list[Slot], first_step: int) -> Iterator[Drawn]:
        ours = [
            slots[start + self._processes.rank * self._batch_size :][: self._batch_size]
            for start in range(0, len(slots), self._together)
        ]
        yield from DataLoader(
            self._samples,
            batch_sampler=list(islice(ours, first_step, None)),
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=self._pin,
            # Without one, the loader takes a number from torch's global generator.
            generator=torch.Generator().manual_seed(self._seed),
        )
