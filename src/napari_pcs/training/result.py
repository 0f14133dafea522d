"""What a tuning ends with: the new model in its folder, and what is to be told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.files import json_bytes
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.store import save_network
from napari_pcs.strategies import trained_parts
from napari_pcs.training.card import tuned_card
from napari_pcs.training.events import Tuned

if TYPE_CHECKING:
    from pathlib import Path

    from napari_pcs.metrics.report import CaseReport
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.strategies import ParameterCount
    from napari_pcs.training.config import TuneConfig
    from napari_pcs.training.events import Step
    from napari_pcs.training.people import Roles

__all__ = ["Tuning", "save_tuned"]

TUNING = "tuning.json"
"""Beside a tuned model's weights: whom it and its ancestors have learnt from."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """A tuning run as it ended.

    Attributes
    ----------
    stopped
        See `events.Tuned`.
    best_step
        Whose weights the network has now.
    """

    model: ModelFolder
    config: TuneConfig
    roles: Roles
    count: ParameterCount
    stopped: str
    steps: list[Step]
    best_step: int
    before: tuple[CaseReport, ...]
    after: tuple[CaseReport, ...]


def save_tuned(network: Segmenter, target: Path, run: Path, tuning: Tuning, seconds: float) -> Tuned:
    """Write the tuned network, or its adapter, as a new model folder; return what is to be told.

    Raises
    ------
    ModelError
        If the folder exists already.
    SessionError
        If the disk is full or read-only; nothing is left of the folder.
    """
    told = _told(target, run, tuning, seconds)
    training = [case.name for case in tuning.roles.training]
    card = tuned_card(tuning.model.name, tuning.model.digest, told, training, tuning.config.model_dump_json())
    lineage = Lineage(stages=(*tuning.model.lineage.stages, _stage(network, told, tuning)))
    more = {TUNING: json_bytes(tuning.roles.record.model_dump(mode="json"))}
    if tuning.config.strategy == "lora":
        from napari_pcs.models.adapters import save_adapter

        saved = save_adapter(
            network, target, card, base=tuning.model, settings=tuning.config.lora, lineage=lineage, more=more
        )
    else:
        saved = save_network(network, target, card, lineage=lineage, more=more)
    return told.model_copy(update={"model": saved.reference})


def _told(target: Path, run: Path, tuning: Tuning, seconds: float) -> Tuned:
    config, steps = tuning.config, tuning.steps
    patches = len(tuning.roles.training) * config.patches * config.views
    seen = sum(step.samples for step in steps)
    return Tuned(
        model=tuning.model.reference.model_copy(update={"name": target.name}),
        path=str(target),
        run=str(run),
        strategy=config.strategy,
        trainable_parameters=tuning.count.trainable,
        total_parameters=tuning.count.total,
        epochs=seen / patches,
        rounds=len(steps) // config.round_steps,
        best_step=tuning.best_step,
        stopped=tuning.stopped,
        seconds_per_epoch=float(np.sum([step.seconds for step in steps])) * patches / seen,
        seconds_total=seconds,
        before=tuning.before,
        after=tuning.after,
        held_out_cases=tuple(case.name for case in tuning.roles.held_out),
    )


def _stage(network: Segmenter, told: Tuned, tuning: Tuning) -> Stage:
    people = len({case.key.subject for case in tuning.roles.training})
    return Stage(
        name=told.model.name,
        objective=f"tune-{told.strategy}",
        data=f"{len(tuning.roles.training)} corrected hemispheres of {people} people",
        epochs=told.epochs,
        parts=trained_parts(network),
    )
