"""What training tells whoever watches: frozen events, one after another."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from napari_pcs.metrics.report import CaseReport
from napari_pcs.models.lineage import Stage
from napari_pcs.provenance import ModelReference

__all__ = [
    "Adapted",
    "Epoch",
    "Event",
    "Judged",
    "Pictured",
    "Preparing",
    "Pretrained",
    "Saved",
    "Skipped",
    "Started",
    "Step",
    "Stopped",
    "Tuned",
]


class Event(BaseModel):
    """Root of all events."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Preparing(Event):
    """Something is being read or judged."""

    sentence: str


class Started(Event):
    """Training begins, or goes on after `steps_done` steps.

    Attributes
    ----------
    what
        Name of the objective, or of the strategy.
    training, held_out
        Names of the hemispheres or cases.
    epochs, steps
        Of the whole run; 0 where the time decides.
    """

    what: str
    network: dict[str, Any]
    trainable_parameters: int
    total_parameters: int
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    epochs: int
    steps: int
    steps_done: int = 0
    device: str
    precision: str
    processes: int
    batch_size: int
    micro_batch: int


class Step(Event):
    """One optimiser step, counted from 1; `seconds` is the time since the last one.

    `figures` are the parts of the loss and whatever else the task tells, None where there is nothing to tell.
    """

    step: int
    epoch: int
    loss: float
    figures: dict[str, float | None]
    learning_rate: float
    gradient_norm: float
    samples: int
    seconds: float


class Epoch(Event):
    """One pass over the training hemispheres, counted from 1.

    Attributes
    ----------
    loss, validation_loss
        Means; the second is of held-out people, None if there are none.
    judged
        By what epochs are compared, the lower the better: a loss, or what a task has for it. None in
        records of versions that compared losses only.
    figures
        What else the task tells of held-out people, such as Dice, as in `Step`; mean over batches.
    seconds
        Of training, without validation, pictures and checkpoints.
    seconds_left
        Estimate until the last epoch ends.
    memory_mb
        Peak, of the device or of the process.
    utilisation, power_w
        Mean share [0, 1] and mean watts of the GPU, None where the driver does not tell.
    """

    epoch: int
    loss: float
    validation_loss: float | None
    judged: float | None = None
    figures: dict[str, float | None] = {}
    learning_rate: float
    seconds: float
    samples_per_second: float
    seconds_left: float
    memory_mb: float
    utilisation: float | None
    power_w: float | None


class Pictured(Event):
    """A picture of what is reconstructed was written.

    `volumes` is a NumPy file (sample, image, x, y, z) with what was given, looked for and found, in
    the order of `images`; `path` shows its middle slices as PNG.
    """

    epoch: int
    path: str
    volumes: str
    images: tuple[str, ...]


class Skipped(Event):
    """A file could not be used and will not be tried again."""

    name: str
    reason: str
    count: int
    of: int


class Adapted(Event):
    """Training goes on with something else than was asked for."""

    sentence: str
    micro_batch: int


class Saved(Event):
    """A checkpoint was written."""

    step: int
    path: str
    best: bool


class Judged(Event):
    """The held-out cases as a model sees them."""

    moment: str
    reports: tuple[CaseReport, ...]


class Stopped(Event):
    """A pre-training run was asked to stop; its checkpoint is written, and it can go on."""

    step: int
    steps: int
    run: str


class Pretrained(Event):
    """The stage is over and the model is in its folder.

    Attributes
    ----------
    epochs
        That were completed, over all sittings.
    stopped
        Why it ended: "complete", or "early" (no better validation loss).
    first_loss, last_loss
        Mean loss of the first and of the last epoch.
    """

    model: ModelReference
    path: str
    run: str
    objective: str
    epochs: int
    best_epoch: int
    stopped: str
    seconds_per_epoch: float
    seconds_total: float
    first_loss: float
    last_loss: float
    skipped: tuple[str, ...]
    lineage: tuple[Stage, ...]


class Tuned(Event):
    """The run is over and the new model is in its folder.

    Attributes
    ----------
    epochs
        Passes over all patches of the training cases.
    rounds, best_step
        Whole rounds that were done, and the step after which the weights were those that were kept.
    stopped
        Why it ended: "complete" (all rounds asked for), "early" (no better held-out Dice), "budget" (time
        is up) or "cancelled".
    """

    model: ModelReference
    path: str
    run: str
    strategy: str
    trainable_parameters: int
    total_parameters: int
    epochs: float
    rounds: int
    best_step: int
    stopped: str
    seconds_per_epoch: float | None
    seconds_total: float
    before: tuple[CaseReport, ...]
    after: tuple[CaseReport, ...]
    held_out_cases: tuple[str, ...]

    @property
    def cancelled(self) -> bool:
        """Whether the user stopped it; the best weights so far are kept."""
        return self.stopped == "cancelled"
