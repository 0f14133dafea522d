"""Tune a model on corrected cases: a generator of events that ends with a new model folder."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from napari_pcs.errors import CancelledError, InputError, ModelError
from napari_pcs.models.store import load_segmenter
from napari_pcs.stop import StopToken
from napari_pcs.strategies import prepare, trained_modules, trained_state
from napari_pcs.training.budget import Budget
from napari_pcs.training.config import LoopConfig, OptimiserConfig, ScheduleConfig
from napari_pcs.training.events import Event, Judged, Preparing, Started, Step
from napari_pcs.training.features import FrozenValues
from napari_pcs.training.judging import Judge
from napari_pcs.training.keeper import Keeper
from napari_pcs.training.loop import Loop
from napari_pcs.training.people import Roles, cast
from napari_pcs.training.processes import Processes
from napari_pcs.training.record import RunRecord
from napari_pcs.training.result import Tuning, save_tuned
from napari_pcs.training.segmentation import Patches, Segmentation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from napari_pcs.data.bundles import Bundles
    from napari_pcs.kept import KeptPredictions
    from napari_pcs.metrics.report import CaseReport
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.strategies import ParameterCount
    from napari_pcs.training.config import TuneConfig
    from napari_pcs.training.labelled import Labelled

__all__ = ["BUDGET_SECONDS", "load_to_tune", "prepare_values", "tune"]

BUDGET_SECONDS: dict[str, float | None] = {"30s": 30.0, "2min": 120.0, "best": None}
_MOST_ROUNDS = 100_000


def tune(
    cases: Sequence[Labelled],
    model: ModelFolder,
    target: Path,
    run: Path,
    config: TuneConfig,
    device: torch.device,
    stop: StopToken | None = None,
    *,
    bundles: Bundles | None = None,
    kept: KeptPredictions | None = None,
    load: Callable[[ModelFolder], Segmenter] | None = None,
) -> Iterator[Event]:
    """Tune a model on corrected cases.

    What the strategy leaves frozen is computed once for each view of each case (`features`); a step
    runs what trains on patches. After every round held-out patches are judged: the weights of the
    best round are kept, and it ends early when there are no better ones. In the end held-out cases
    are predicted whole by the old model and the new.

    Parameters
    ----------
    cases
        Cases with a correction or a reference.
    model
        Model to start from; it is not changed.
    target
        Folder of the new model; must not exist.
    run
        Folder for all that it takes to repeat the run, and for what happened.
    config
        Strategy, time, patches and split.
    device
        Where to compute.
    stop
        Setting it ends training within a layer's time; the best weights so far are kept.
    bundles
        Where frozen values are kept; without it they are computed in every step.
    kept
        Predictions that are there already: whoever corrected a case has mostly seen the model's.
    load
        Loads a model, its heads perhaps untrained; a network that is at hand may be given back, and is
        left as it is.

    Yields
    ------
    Event
        `Preparing`, `Started`, one `Step` per optimiser step, one `Epoch` per round, `Judged` before
        and after, and `Tuned`.

    Raises
    ------
    InputError
        If no case is left to learn from.
    CancelledError
        If stopped before the first step; no model is written.
    ModelError
        If the model cannot be loaded, exists already, or the device has too little memory.
    """
    if not cases:
        raise InputError(
            found="no corrected case", expected="at least one", advice="Correct a prediction and save it first."
        )
    if target.exists():
        msg = f"Model {target.name}: found a model of that name already, expected a new name."
        raise ModelError(msg)
    roles = cast(cases, model, config)
    record = RunRecord(run, config)
    tuning = _Run(
        roles, model, target, record, config, device, stop or StopToken(), bundles, kept, load or load_to_tune
    )
    for event in tuning.events():
        record.add(event)
        yield event


def prepare_values(case: Labelled, network: Segmenter, config: TuneConfig, bundles: Bundles, stop: StopToken) -> None:
    """Compute and keep what tuning on a case will read, before anybody asks for it.

    Parameters
    ----------
    network
        Untrained copy of the model's on its device; it is prepared for the strategy.
    """
    prepare(network, config.strategy, lora=config.lora, seed=config.seed)
    values = FrozenValues(network, config, bundles, stop)
    for view in range(config.views):
        values.prepare(case, view)


class _Run:
    """One tuning run; `events` does it."""

    def __init__(
        self,
        roles: Roles,
        model: ModelFolder,
        target: Path,
        record: RunRecord,
        config: TuneConfig,
        device: torch.device,
        stop: StopToken,
        bundles: Bundles | None,
        kept: KeptPredictions | None,
        load: Callable[[ModelFolder], Segmenter],
    ) -> None:
        self.roles, self.model, self.target, self.record = roles, model, target, record
        self.config, self.device, self.stop, self.bundles = config, device, stop, bundles
        self.kept, self.load = kept, load
        self.best: tuple[int, dict[str, Tensor]] = (0, {})

    def events(self) -> Iterator[Event]:
        began = time.perf_counter()
        budget = Budget(
            None if self.config.rounds else BUDGET_SECONDS[self.config.budget],
            prepared_s=lambda: values.spent_s,
            preparing_s=lambda number: values.seconds_ahead(self.roles.draw(number)),
        )
        self.record.split(_names(self.roles.training), _names(self.roles.held_out))
        yield Preparing(sentence=f"Loading {self.model.name}")
        self.record.inputs(self.model.reference, {c.name: c.digest for c in self.roles.cases}, self.device)
        torch.manual_seed(self.config.seed)
        network = self.load(self.model).to(self.device)
        count = prepare(network, self.config.strategy, lora=self.config.lora, seed=self.config.seed)
        values = FrozenValues(network, self.config, self.bundles, self.stop)
        task = Segmentation(network, trained_modules(network))
        loop = Loop(
            task,
            Patches(values, self.roles.draw, self.roles.held_out, self.config.batch_size, self.config.round_steps),
            _loop_config(self.config),
            Processes(self.device.type),
            _Best(lambda step: self._keep(step, task)),
            self.stop,
            budget,
        )
        yield Started(
            what=self.config.strategy,
            network=network.config.model_dump(),
            trainable_parameters=count.trainable,
            total_parameters=count.total,
            training=_names(self.roles.training),
            held_out=_names(self.roles.held_out),
            epochs=self.config.rounds or 0,
            steps=(self.config.rounds or 0) * self.config.round_steps,
            device=self.device.type,
            precision="bf16" if loop.half else "fp32",
            processes=loop.processes.count,
            batch_size=self.config.batch_size,
            micro_batch=loop.position.micro_batch or self.config.batch_size,
        )
        steps: list[Step] = []
        for event in loop.events():
            if isinstance(event, Step):
                steps.append(event)
            yield event
        if not steps:
            self.stop.check()
        if not self.best[0]:
            self._keep(len(steps), task)
        yield from self._conclude(network, count, loop, steps, began)

    def _conclude(
        self, network: Segmenter, count: ParameterCount, loop: Loop, steps: list[Step], began: float
    ) -> Iterator[Event]:
        """Judge the held-out cases by the old weights and by the best, and save these."""
        network.load_state_dict(self.best[1], strict=False)
        network.eval()
        reports: dict[str, tuple[CaseReport, ...]] = {"before": (), "after": ()}
        if self.roles.held_out and loop.stopped != "cancelled":
            yield Preparing(sentence=f"Predicting {len(self.roles.held_out)} held-out cases before and after")
            with suppress(CancelledError):  # the tuned weights are worth keeping without their figures
                judge = Judge(self.model, self.device, self.stop, self.kept, self.load)
                reports["after"] = judge.after(self.roles.held_out, network)
                if self.model.has_trained_heads:
                    reports["before"] = judge.before(self.roles.held_out)
        for moment, found in reports.items():
            yield Judged(moment=moment, reports=found)
        tuning = Tuning(
            self.model,
            self.config,
            self.roles,
            count,
            loop.stopped,
            steps,
            self.best[0],
            reports["before"],
            reports["after"],
        )
        yield save_tuned(network, self.target, self.record.folder, tuning, time.perf_counter() - began)

    def _keep(self, step: int, task: Segmentation) -> None:
        with task.average.applied():
            state = trained_state(task.network)
        self.best = (step, state)
        self.record.keep(state)


class _Best(Keeper):
    """Keeps the mean weights of the round with the best held-out Dice, or lowest training loss without such."""

    def __init__(self, keep: Callable[[int], None]) -> None:
        self._keep = keep

    def improved(self, loop: Loop) -> Iterator[Event]:
        self._keep(loop.position.step)
        yield from ()


def load_to_tune(model: ModelFolder) -> Segmenter:
    """Load a model whose heads may be untrained."""
    return load_segmenter(model, to_tune=True)


def _names(cases: Sequence[Labelled]) -> tuple[str, ...]:
    return tuple(case.name for case in cases)


def _loop_config(config: TuneConfig) -> LoopConfig:
    """Return the loop's settings; the rate stays, since nobody knows how many steps the time allows."""
    return LoopConfig(
        epochs=config.rounds or _MOST_ROUNDS,
        batch_size=config.batch_size,
        # Not found by trying, which takes as long as a step: where memory runs out, the loop halves it.
        micro_batch=config.batch_size,
        optimiser=OptimiserConfig(name="adam", learning_rate=config.learning_rate, weight_decay=config.weight_decay),
        schedule=ScheduleConfig(name="constant"),
        precision="auto",
        patience=None if config.rounds else config.patience,
        seed=config.seed,
    )
