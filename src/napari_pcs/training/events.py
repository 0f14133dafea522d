"""What a tuning run tells whoever watches: frozen events, one after another."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from napari_pcs.metrics.report import CaseReport
from napari_pcs.provenance import ModelReference

__all__ = ["Event", "Judged", "Preparing", "Started", "Step", "Tuned"]


class Event(BaseModel):
    """Root of all events."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Preparing(Event):
    """A case is being read or judged."""

    sentence: str


class Started(Event):
    """Training begins."""

    strategy: str
    trainable_parameters: int
    total_parameters: int
    training_cases: tuple[str, ...]
    held_out_cases: tuple[str, ...]
    steps: int


class Step(Event):
    """One optimiser step; Dice is that of the thresholded output, None where the case has no PCS."""

    step: int
    epoch: int
    loss: float
    dice_skeleton: float | None
    dice_pcs: float | None
    seconds: float


class Judged(Event):
    """The held-out cases as a model sees them."""

    moment: str
    reports: tuple[CaseReport, ...]


class Tuned(Event):
    """The run is over and the new model is in its folder."""

    model: ModelReference
    path: str
    run: str
    strategy: str
    trainable_parameters: int
    total_parameters: int
    epochs: float
    best_step: int
    cancelled: bool
    seconds_per_epoch: float | None
    seconds_total: float
    before: tuple[CaseReport, ...]
    after: tuple[CaseReport, ...]
    held_out_cases: tuple[str, ...]
