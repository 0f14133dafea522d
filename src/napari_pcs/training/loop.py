"""The training loop: batches go in, frozen events come out, whatever is learnt.

It knows a task (a loss with its weights), batches, and settings. What a step draws, and its
learning rate, follow from its number alone; so a run that is resumed from a checkpoint has the
same losses, to the last bit on a CPU, as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_pcs.errors import CancelledError, InputError, ModelError
from napari_pcs.metrics.resources import DeviceWatch
from napari_pcs.models.interrupt import interruptible
from napari_pcs.training.budget import Budget
from napari_pcs.training.buffers import buffers_kept
from napari_pcs.training.checkpoint import Position
from napari_pcs.training.events import Adapted, Epoch, Event, Step
from napari_pcs.training.memory import fitting_micro_batch
from napari_pcs.training.optimiser import build_optimiser, learning_rate
from napari_pcs.training.step import OutOfMemoryError, Passes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from napari_pcs.objectives.task import Batch, Task
    from napari_pcs.stop import StopToken
    from napari_pcs.training.batches import Batches, Drawn
    from napari_pcs.training.config import LoopConfig
    from napari_pcs.training.keeper import Keeper
    from napari_pcs.training.processes import Processes

__all__ = ["Loop"]


class Loop:
    """One training run.

    Parameters
    ----------
    task
        What is trained; on the processes' device.
    batches
        What it is trained on.
    config
        How.
    processes
        That train together.
    keeper
        Keeps checkpoints and the best weights.
    stop
        Setting it ends the run soon; what is complete is kept.
    budget
        Ends the run after a round when its time is up; without end if left out.

    Attributes
    ----------
    optimisers
        One for each turn of the task.
    position
        How far it has come.
    stopped
        Why it ended: "complete", "early", "budget" or "cancelled".
    """

    def __init__(
        self,
        task: Task,
        batches: Batches,
        config: LoopConfig,
        processes: Processes,
        keeper: Keeper,
        stop: StopToken,
        budget: Budget | None = None,
    ) -> None:
        self.budget = budget or Budget(None)
        self.task, self.batches, self.config = task, batches, config
        self.processes, self.keeper, self.stop = processes, keeper, stop
        self.optimisers = {
            turn: build_optimiser(task.parameters_of(turn), config.optimiser) for turn in task.all_turns()
        }
        self.position = Position(processes=processes.count)
        self.half = config.precision == "bf16" or (config.precision == "auto" and _has_bf16(processes.device))
        self.passes = Passes(task, processes, half=self.half)
        self.stopped = "complete"

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.batches.steps_per_epoch

    def events(self) -> Iterator[Event]:
        """Train from `position` to the end.

        Raises
        ------
        ModelError
            If a loss or gradient is not finite, or not even one sample fits into memory.
        InputError
            If too many files cannot be read.
        """
        first = (self.position.step - len(self.position.losses)) // self.batches.steps_per_epoch
        try:
            for epoch in range(first, self.config.epochs):
                if not self.budget.allows_another_round():
                    self.stopped = "budget"
                    return
                yield from self._epoch(epoch)
                if self._exhausted():
                    self.stopped = "early"
                    return
        except CancelledError:
            self.stopped = "cancelled"

    def _exhausted(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.position.epochs_since_best >= patience

    def _epoch(self, epoch: int) -> Iterator[Event]:
        batch: Batch = {}
        self.task.train()
        with DeviceWatch(self.processes.device) as watch:
            for drawn in self._timed(self.batches.epoch(epoch, len(self.position.losses))):
                yield from self._take(drawn[0])
                batch = drawn[0].batch
                step = yield from self._step(batch, epoch, drawn[1])
                yield step
                yield from self.keeper.stepped(self)
        yield from self._close(epoch, watch)
        yield from self.keeper.epoch_over(self, batch)

    def _take(self, drawn: Drawn) -> Iterator[Event]:
        if self.processes.any(bool(drawn.failures)):
            yield from self.keeper.skipped(self.processes.collect(drawn.failures))
            if self.processes.any(not drawn.batch):
                raise InputError(
                    found="no file left on one side of the split that could be read",
                    expected="at least one to learn from, and one of those held out",
                    advice="Repair the unreadable files or remove them.",
                )

    def _timed(self, batches: Iterator[Drawn]) -> Iterator[tuple[Drawn, float]]:
        """Pair every batch with the moment at which it was asked for: waiting for data takes time too."""
        began = time.perf_counter()
        for drawn in batches:
            if self.processes.any(self.stop.is_set()):
                msg = "Cancelled."
                raise CancelledError(msg)
            yield drawn, began
            began = time.perf_counter()

    def _step(self, batch: Batch, epoch: int, began: float) -> Generator[Event, None, Step]:
        size = len(next(iter(batch.values())))
        yield from self._fit(batch, epoch, size)
        batch = {name: t.to(self.processes.device, non_blocking=True) for name, t in batch.items()}
        rate = learning_rate(self.config, self.position.step, self.batches.steps_per_epoch)
        figures: dict[str, float] = {}
        norm = 0.0
        for turn in self.task.turns(epoch):
            told, norm = yield from self._turn(batch, turn, epoch, rate)
            figures |= told
        self.position.step += 1
        self.position.losses.append(figures["loss"])
        seconds = time.perf_counter() - began
        self.position.epoch_seconds += seconds
        return Step(
            step=self.position.step,
            epoch=epoch + 1,
            loss=figures.pop("loss"),
            figures={k: None if math.isnan(v) else v for k, v in figures.items()},
            learning_rate=rate,
            gradient_norm=norm,
            samples=size * self.processes.count,
            seconds=seconds,
        )

    def _fit(self, batch: Batch, epoch: int, size: int) -> Iterator[Event]:
        """Decide once how many samples are in memory at a time."""
        if self.position.micro_batch:
            return
        self.position.micro_batch = self.config.micro_batch or fitting_micro_batch(
            self.passes, batch, self.task.turns(epoch)
        )
        if self.config.micro_batch is None and self.position.micro_batch < size:
            yield self._adapted(f"A batch of {size} does not fit into memory")

    def _adapted(self, why: str) -> Adapted:
        n = self.position.micro_batch
        return Adapted(
            sentence=f"{why}: going through it {n} at a time. The gradients are those of the whole batch.",
            micro_batch=n,
        )

    def _turn(
        self, batch: Batch, turn: str, epoch: int, rate: float
    ) -> Generator[Event, None, tuple[dict[str, float], float]]:
        optimiser = self.optimisers[turn]
        weights = [p for group in optimiser.param_groups for p in group["params"]]
        while True:
            try:
                told, norm = self._gradients(batch, turn, epoch, weights)
                break
            except OutOfMemoryError:
                # With others waiting in a collective operation there is no way to try again.
                if self.position.micro_batch == 1 or self.processes.count > 1:
                    raise
                self.position.micro_batch = (self.position.micro_batch + 1) // 2
            yield self._adapted("The device ran out of memory")
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        self.task.after_step()
        return told, norm

    def _gradients(
        self, batch: Batch, turn: str, epoch: int, weights: list[torch.nn.Parameter]
    ) -> tuple[dict[str, float], float]:
        """Leave gradients of the batch in the weights; once more in fp32 if bfloat16 gave none."""
        for half in (True, False) if self.half else (False,):
            self.task.zero_grad(set_to_none=True)
            torch.manual_seed(_seed(self.config.seed, self.position.step, self.processes.rank))
            with buffers_kept(self.task) as restore, self._interruptible(epoch):
                told = self.passes.backward(batch, turn, self.position.micro_batch, half=half)
            told = self.processes.mean(told)
            self.processes.average_gradients(weights)
            self.task.before_step(epoch)
            norm = torch.nn.utils.clip_grad_norm_(weights, self.config.clip_norm or math.inf)
            if math.isfinite(told["loss"]) and bool(norm.isfinite()):
                return told, float(norm)
            restore()
        msg = (
            f"Training met a loss or gradient that is not finite in step {self.position.step + 1};"
            f" lower the learning rate ({self.config.optimiser.learning_rate:g}) or clip the gradients."
        )
        raise ModelError(msg)

    def _interruptible(self, epoch: int) -> Any:
        """Let a long pass be stopped where that leaves nothing half done: one process, one turn."""
        alone = self.processes.count == 1 and len(self.task.turns(epoch)) == 1
        return interruptible(self.task, self.stop) if alone else nullcontext()

    def _close(self, epoch: int, watch: DeviceWatch) -> Iterator[Event]:
        """End an epoch: mean loss, validation, and whether it was the best."""
        position = self.position
        loss = math.fsum(position.losses) / len(position.losses)
        samples = len(position.losses) * self.config.batch_size * self.processes.count
        validation, figures = yield from self._validate(epoch)
        # Only now: a run that is stopped while it validates ends this epoch when it is resumed.
        seconds, position.epoch_seconds, position.losses = position.epoch_seconds, 0.0, []
        position.seconds += seconds
        position.first_loss = loss if position.first_loss is None else position.first_loss
        position.last_loss = loss
        judged = loss if validation is None else self.task.judged(validation, figures)
        # A validation loss that is no number is worse than any that is one.
        if position.best_loss is None or math.isnan(position.best_loss) or judged < position.best_loss:
            position.best_loss, position.best_epoch, position.epochs_since_best = judged, epoch + 1, 0
            yield from self.keeper.improved(self)
        else:
            position.epochs_since_best += 1
        yield Epoch(
            epoch=epoch + 1,
            loss=loss,
            validation_loss=validation,
            judged=judged,
            figures=figures,
            learning_rate=learning_rate(self.config, position.step - 1, self.batches.steps_per_epoch),
            seconds=seconds,
            samples_per_second=samples / seconds,
            seconds_left=self._seconds_left(epoch),
            memory_mb=watch.peak_mb,
            utilisation=watch.utilisation,
            power_w=watch.power_w,
        )

    def _seconds_left(self, epoch: int) -> float:
        by_epochs = self.position.seconds / (epoch + 1) * (self.config.epochs - epoch - 1)
        by_time = self.budget.seconds_left
        return by_epochs if by_time is None else min(by_epochs, by_time)

    def _validate(self, epoch: int) -> Generator[Event, None, tuple[float | None, dict[str, float | None]]]:
        """Return the mean loss of held-out people, and means of what else is told of them."""
        turn = self.task.all_turns()[-1]
        found: list[dict[str, float]] = []
        self.task.eval()
        for drawn in self.batches.validation():
            yield from self._take(drawn)
            batch = {name: t.to(self.processes.device) for name, t in drawn.batch.items()}
            with self._interruptible(epoch):
                told = self.passes.judge(batch, turn, self.position.micro_batch)
            found.append(self.processes.mean(told))
        self.task.train()
        if not found:
            return None, {}
        loss = math.fsum(told.pop("loss") for told in found) / len(found)
        return loss, {name: _mean([told[name] for told in found]) for name in found[0]}


def _mean(values: list[float]) -> float | None:
    """Return the mean of those that are numbers, None if none is."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
