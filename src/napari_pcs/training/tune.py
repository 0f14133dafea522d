"""Tune a model on corrected cases: a generator of events that ends with a new model folder."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_pcs.anatomy.length import measure_case
from napari_pcs.data.splits import hold_out
from napari_pcs.errors import CancelledError, FrameUnknownError, InputError, ModelError
from napari_pcs.labels import Label, PcsClass
from napari_pcs.metrics.report import compare_in
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.store import load_segmenter, save_network
from napari_pcs.predict import network_input, pad_to_multiple, predict
from napari_pcs.stop import StopToken
from napari_pcs.strategies import prepare, trained_modules, trained_parts, trained_state
from napari_pcs.training.card import tuned_card
from napari_pcs.training.config import LoopConfig, OptimiserConfig, ScheduleConfig
from napari_pcs.training.events import Event, Judged, Preparing, Started, Step, Tuned
from napari_pcs.training.keeper import Keeper
from napari_pcs.training.loop import Loop
from napari_pcs.training.processes import Processes
from napari_pcs.training.record import RunRecord
from napari_pcs.training.segmentation import Example, Examples, Segmentation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from napari_pcs.bids import CaseKey
    from napari_pcs.case import Case
    from napari_pcs.metrics.report import CaseReport
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.training.config import TuneConfig

__all__ = ["example", "tune"]

_SHEET_SHARE = 0.35
"""A voxel of the network's grid is skeleton from this share on: a sheet thinner than a voxel never fills it."""


def tune(
    cases: Sequence[Case],
    model: ModelFolder,
    target: Path,
    run: Path,
    config: TuneConfig,
    device: torch.device,
    stop: StopToken | None = None,
) -> Iterator[Event]:
    """Tune a model on corrected cases.

    The network sees whole hemispheres, as it will when it predicts. Cases of held-out people are
    predicted before and after and never trained on; the best weights are chosen by the training
    loss, so that the held-out figures stay untouched by the choice.

    Parameters
    ----------
    cases
        Cases with a correction or a reference.
    model
        Model to start from; it is not changed.
    target
        Folder of the new model; must not exist.
    run
        Folder for config, split, events, history, metrics and the best weights so far.
    config
        Strategy, epochs, learning rate and split.
    device
        Where to compute.
    stop
        Setting it ends training within a layer's time; the best weights so far are kept.

    Yields
    ------
    Event
        `Preparing`, `Judged`, `Started`, one `Step` per optimiser step, and `Tuned`.

    Raises
    ------
    InputError
        If no case has labels to learn from.
    CancelledError
        If stopped before the first step; no model is written.
    ModelError
        If the model cannot be loaded, exists already, or the device has too little memory.
    """
    labelled = {case.key: case for case in cases if case.truth}
    if not labelled:
        raise InputError(
            found="no corrected case", expected="at least one", advice="Correct a prediction and save it first."
        )
    if target.exists():
        msg = f"Model {target.name}: found a model of that name already, expected a new name."
        raise ModelError(msg)
    record = RunRecord(run, config)
    for event in _Run(labelled, model, target, record, config, device, stop or StopToken()).events():
        record.add(event)
        yield event


def example(case: Case, *, position: bool) -> Example:
    """Bring a case and its labels onto the network's grid.

    Raises
    ------
    InputError
        If the labels hold no skeleton.
    """
    truth = case.truth
    if truth is None or not truth[1].data.any():
        raise InputError(found=f"{case.key.stem} without skeleton labels", expected="a corrected skeleton and PCS")
    labels = truth[1].data
    prepared = network_input(case, position=position)
    masks = [prepared.grid.pull(mask) >= _SHEET_SHARE for mask in (labels >= Label.SKELETON, labels == Label.PCS)]
    found = measure_case(case, labels)
    if found is None:
        raise FrameUnknownError
    return Example(
        name=case.key.stem,
        image=pad_to_multiple(torch.from_numpy(prepared.image)[None]),
        targets=pad_to_multiple(torch.from_numpy(np.stack(masks)).float()[None]),
        class_index=torch.tensor([PcsClass.measured().index(PcsClass(found.pcs_class))]),
    )


class _Run:
    """One tuning run; `events` does it."""

    def __init__(
        self,
        cases: dict[CaseKey, Case],
        model: ModelFolder,
        target: Path,
        record: RunRecord,
        config: TuneConfig,
        device: torch.device,
        stop: StopToken,
    ) -> None:
        self.model, self.target, self.record = model, target, record
        self.config, self.device, self.stop = config, device, stop
        self.processes = Processes(device.type)
        training, held_out = hold_out(list(cases), config.held_out_share, config.seed)
        self.training = [cases[key] for key in training]
        self.held_out = [cases[key] for key in held_out]
        self.best: tuple[int, dict[str, Tensor]] = (0, {})
        record.split(self._names(self.training), self._names(self.held_out))

    def events(self) -> Iterator[Event]:
        began = time.perf_counter()
        torch.manual_seed(self.config.seed)
        network = load_segmenter(self.model, to_tune=True).to(self.device)
        before: tuple[CaseReport, ...] = ()
        if self.held_out and self.model.has_trained_heads:
            yield Preparing(sentence=f"Predicting {len(self.held_out)} held-out cases before tuning")
            before = self._judge(network, self.stop)
        yield Judged(moment="before", reports=before)
        yield Preparing(sentence=f"Reading {len(self.training)} corrected cases")
        examples = [example(case, position=network.sees_position) for case in self.training]
        count = prepare(network, self.config.strategy)
        task = Segmentation(network, trained_modules(network, self.config.strategy))
        batches = Examples(examples, self.config.seed)
        loop = Loop(task, batches, _loop_config(self.config), self.processes, _Best(self._keep, network), self.stop)
        yield Started(
            what=self.config.strategy,
            network=network.config.model_dump(),
            trainable_parameters=count.trainable,
            total_parameters=count.total,
            training=self._names(self.training),
            held_out=self._names(self.held_out),
            epochs=self.config.epochs,
            steps=loop.total_steps,
            device=self.device.type,
            precision="bf16" if loop.half else "fp32",
            processes=self.processes.count,
            batch_size=1,
            micro_batch=1,
        )
        steps: list[Step] = []
        for event in loop.events():
            if isinstance(event, Step):
                steps.append(event)
            yield event
        if steps and not self.best[0]:
            self._keep(len(steps), trained_state(network))
        if not steps:
            self.stop.check()
        cancelled = self.stop.is_set()
        network.load_state_dict(self.best[1], strict=False)
        network.eval()
        after: tuple[CaseReport, ...] = ()
        if self.held_out and not cancelled:
            yield Preparing(sentence=f"Predicting {len(self.held_out)} held-out cases after tuning")
            with suppress(CancelledError):  # the tuned weights are worth keeping without their figures
                after = self._judge(network, self.stop)
        yield Judged(moment="after", reports=after)
        yield self._save(network, steps, before, after, began=began, cancelled=cancelled)

    def _keep(self, step: int, state: dict[str, Tensor]) -> None:
        self.best = (step, state)
        self.record.keep(state)

    def _judge(self, network: Segmenter, stop: StopToken) -> tuple[CaseReport, ...]:
        reports = []
        for case in self.held_out:
            predicted = predict(case, network, self.model.reference, self.device, stop=stop)
            truth = case.truth
            assert truth is not None  # noqa: S101  only labelled cases are here
            reports.append(compare_in(case, predicted.labels, truth[1].data))
        return tuple(reports)

    def _save(
        self,
        network: Segmenter,
        steps: list[Step],
        before: tuple[CaseReport, ...],
        after: tuple[CaseReport, ...],
        *,
        began: float,
        cancelled: bool,
    ) -> Tuned:
        count = prepare(network, self.config.strategy)
        result = Tuned(
            model=self.model.reference.model_copy(update={"name": self.target.name}),
            path=str(self.target),
            run=str(self.record.folder),
            strategy=self.config.strategy,
            trainable_parameters=count.trainable,
            total_parameters=count.total,
            epochs=len(steps) / len(self.training),
            best_step=self.best[0],
            cancelled=cancelled,
            seconds_per_epoch=float(np.mean([step.seconds for step in steps])) * len(self.training),
            seconds_total=time.perf_counter() - began,
            before=before,
            after=after,
            held_out_cases=self._names(self.held_out),
        )
        card = tuned_card(
            self.model.name, self.model.digest, result, self._names(self.training), self.config.model_dump_json()
        )
        lineage = Lineage(stages=(*self.model.lineage.stages, self._stage(network, result)))
        return result.model_copy(update={"model": save_network(network, self.target, card, lineage=lineage).reference})

    def _stage(self, network: Segmenter, result: Tuned) -> Stage:
        people = len({case.key.subject for case in self.training})
        return Stage(
            name=self.target.name,
            objective=f"tune-{result.strategy}",
            data=f"{len(self.training)} corrected hemispheres of {people} people",
            epochs=result.epochs,
            parts=trained_parts(network),
        )

    @staticmethod
    def _names(cases: Sequence[Case]) -> tuple[str, ...]:
        return tuple(case.key.stem for case in cases)


class _Best(Keeper):
    """Keeps the trained weights of the epoch with the lowest mean training loss."""

    def __init__(self, keep: Callable[[int, dict[str, Tensor]], None], network: Segmenter) -> None:
        self._keep, self._network = keep, network

    def improved(self, loop: Loop) -> Iterator[Event]:
        self._keep(loop.position.step, trained_state(self._network))
        yield from ()


def _loop_config(config: TuneConfig) -> LoopConfig:
    """Tuning is short: a cosine to a tenth, since a handful of epochs leaves no room for a step schedule."""
    return LoopConfig(
        epochs=config.epochs,
        batch_size=1,
        micro_batch=1,
        optimiser=OptimiserConfig(name="adam", learning_rate=config.learning_rate, weight_decay=config.weight_decay),
        schedule=ScheduleConfig(name="cosine", factor=0.1),
        precision="fp32",
        seed=config.seed,
    )
