"""Keeping what a pre-training run has reached: checkpoints, the best weights, pictures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from napari_pcs.data.health import Failure
from napari_pcs.files import write_bytes
from napari_pcs.training.checkpoint import write_checkpoint
from napari_pcs.training.events import Pictured, Saved, Skipped
from napari_pcs.training.keeper import Keeper
from napari_pcs.training.pictures import write_picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_pcs.data.health import Tally
    from napari_pcs.models.contract import Network
    from napari_pcs.objectives import Objective
    from napari_pcs.objectives.task import Batch
    from napari_pcs.training.events import Event
    from napari_pcs.training.loop import Loop

__all__ = ["BEST", "LAST", "RunKeeper"]

BEST, LAST = "checkpoint-best.safetensors", "checkpoint-last.safetensors"


class RunKeeper(Keeper):
    """Writes the files of a run; the main process does, the others only count failures.

    Parameters
    ----------
    run
        Folder of the run.
    minutes
        Between two checkpoints.
    picture_epochs
        Epochs between two pictures.
    files
        How many there are.
    tally
        Counts the files that cannot be read, and refuses too many.
    is_main
        Whether this process writes.
    """

    def __init__(
        self, run: Path, *, minutes: float, picture_epochs: int, files: int, tally: Tally, is_main: bool
    ) -> None:
        self._run, self._seconds, self._picture_epochs = run, 60 * minutes, picture_epochs
        self._files, self._tally, self._is_main = files, tally, is_main
        self._saved_at = time.monotonic()

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Names of the files that could not be read."""
        return tuple(failure.name for failure in self._tally.failures)

    def remember(self, skipped: list[tuple[int, str, str]]) -> None:
        """Take note of what was found unreadable before a run was resumed."""
        self._tally.add(Failure(*one) for one in skipped)

    def skipped(self, failures: tuple[Failure, ...]) -> Iterator[Event]:
        """Tell of each unreadable file once; stop if there are too many."""
        for failure in self._tally.add(failures):
            count = len(self._tally.failures)
            yield Skipped(name=failure.name, reason=failure.reason, count=count, of=self._files)

    def stepped(self, loop: Loop) -> Iterator[Event]:
        """Write a checkpoint if the last one is old."""
        if time.monotonic() - self._saved_at > self._seconds:
            yield from self.checkpoint(loop)

    def improved(self, loop: Loop) -> Iterator[Event]:
        """Write the network's weights: they are the best so far."""
        if self._is_main:
            path = self._run / BEST
            write_bytes(path, save(weights_of(loop.task.network)))  # type: ignore[arg-type]
            yield Saved(step=loop.position.step, path=str(path), best=True)

    def epoch_over(self, loop: Loop, batch: Batch) -> Iterator[Event]:
        """Write a picture after the first epoch and every few, and a checkpoint after the last."""
        epoch = loop.position.step // loop.batches.steps_per_epoch
        # A run that goes on at the very end of an epoch has no batch of it in hand.
        if self._is_main and batch and (epoch == 1 or epoch % self._picture_epochs == 0):
            yield from self._picture(loop, batch, epoch)
        if loop.position.step == loop.total_steps:
            yield from self.checkpoint(loop)

    def checkpoint(self, loop: Loop) -> Iterator[Event]:
        """Write everything that the run needs to go on."""
        if self._is_main:
            path = self._run / LAST
            loop.position.skipped = [(f.index, f.name, f.reason) for f in self._tally.failures]
            write_checkpoint(path, loop.task, loop.optimisers, loop.position)
            yield Saved(step=loop.position.step, path=str(path), best=False)
        self._saved_at = time.monotonic()

    def _picture(self, loop: Loop, batch: Batch, epoch: int) -> Iterator[Event]:
        task: Objective = loop.task  # type: ignore[assignment]
        few = {name: t[:_SAMPLES].to(loop.processes.device) for name, t in batch.items()}
        task.eval()
        with torch.no_grad():
            found = task.picture(few)
        task.train()
        if found is not None:
            folder = self._run / "pictures"
            path, volumes = write_picture(
                found.float().cpu().numpy(), task.picture_names, folder / f"epoch-{epoch:05d}.png"
            )
            yield Pictured(epoch=epoch, path=str(path), volumes=str(volumes), images=task.picture_names)


_SAMPLES = 3


def weights_of(network: Network) -> dict[str, torch.Tensor]:
    """Return copies of all weights and buffers, on the CPU."""
    return {name: t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()}
