"""The folder of one run: what was asked, on whom, what happened, and the best weights so far."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safetensors.torch import save

from napari_pcs.files import write_bytes, write_json, write_text
from napari_pcs.metrics.report import table
from napari_pcs.training.events import Event, Step, Tuned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from napari_pcs.training.config import TuneConfig

__all__ = ["RunRecord"]

_HISTORY = ("step", "epoch", "loss", "dice_skeleton", "dice_pcs", "seconds")


class RunRecord:
    """Writes a run's files as it goes; each is complete at any moment.

    Parameters
    ----------
    folder
        A folder that may not exist yet.
    config
        Written at once as `config.json`.
    """

    def __init__(self, folder: Path, config: TuneConfig) -> None:
        self.folder = folder
        self._events: list[str] = []
        self._history = [",".join(_HISTORY)]
        write_json(folder / "config.json", json.loads(config.model_dump_json()))

    def split(self, training: Sequence[str], held_out: Sequence[str]) -> None:
        """Write who trains and who judges."""
        write_json(self.folder / "split.json", {"train": list(training), "held_out": list(held_out)})

    def add(self, event: Event) -> None:
        """Append an event to `events.jsonl`, and to the tables that show it."""
        self._events.append(json.dumps({"event": type(event).__name__, **event.model_dump(mode="json")}))
        write_text(self.folder / "events.jsonl", "\n".join(self._events) + "\n")
        if isinstance(event, Step):
            values = (getattr(event, name) for name in _HISTORY)
            self._history.append(",".join("" if v is None else f"{v:.6g}" for v in values))
            write_text(self.folder / "history.csv", "\n".join(self._history) + "\n")
        if isinstance(event, Tuned):
            write_text(self.folder / "metrics.tsv", table([*event.before, *event.after]))

    def keep(self, state: dict[str, Tensor]) -> None:
        """Write the best trained weights so far."""
        write_bytes(self.folder / "checkpoint-best.safetensors", save(state))
