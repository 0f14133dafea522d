"""What training tells, as sentences for the terminal and the panels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_pcs.training.events import Adapted, Epoch, Pictured, Preparing, Skipped, Started, Stopped

if TYPE_CHECKING:
    from napari_pcs.training.events import Event

__all__ = ["resources", "sentence"]


def sentence(event: Event) -> str | None:
    """Return what an event says to a person; None for those that are figures, files or results."""
    match event:
        case Preparing() | Adapted():
            return event.sentence
        case Skipped():
            return f"Skipped {event.name}: {event.reason} ({event.count} of {event.of})"
        case Pictured():
            return f"Picture after epoch {event.epoch}: {Path(event.path).name}"
        case Started():
            return _started(event)
        case Stopped():
            return f"Stopped after step {event.step} of {event.steps}; the checkpoint is saved"
    return None


def resources(event: Epoch) -> str:
    """Return memory, utilisation and power of an epoch, as far as they are known."""
    figures = [f"{event.memory_mb:,.0f} MB"]
    if event.utilisation is not None:
        figures.append(f"GPU {event.utilisation:.0%}")
    if event.power_w is not None:
        figures.append(f"{event.power_w:.0f} W")
    return "  ".join(figures)


def _started(event: Started) -> str:
    share = event.trainable_parameters / event.total_parameters
    who = f"{len(event.training)} to learn from, {len(event.held_out)} held out"
    where = f"{event.device}, {event.precision}" + (f", {event.processes} processes" if event.processes > 1 else "")
    batch = f"batch {event.batch_size}" + (
        f" as {event.micro_batch} at a time" if event.micro_batch < event.batch_size else ""
    )
    begun = f"going on after step {event.steps_done}" if event.steps_done else "training"
    return f"{event.what}: {begun}, {event.trainable_parameters:,} weights ({share:.1%}); {who}; {where}; {batch}"
