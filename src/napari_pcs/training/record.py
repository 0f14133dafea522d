"""The folder of one run: what was asked, on whom, what happened, and the best weights so far."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Self

import torch
from safetensors.torch import save

from napari_pcs import __version__
from napari_pcs.errors import SessionError
from napari_pcs.files import write_bytes, write_json, write_text
from napari_pcs.metrics.report import table
from napari_pcs.training.events import Epoch, Event, Step, Tuned
from napari_pcs.training.journal import drop_torn_line, read_events, write_event
from napari_pcs.training.tables import GrowingTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic import BaseModel
    from torch import Tensor

    from napari_pcs.provenance import ModelReference

__all__ = ["RunRecord", "read_events", "read_split"]

_HISTORY = ("step", "epoch", "loss", "learning_rate", "gradient_norm", "seconds")


def read_split(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of those who train in a run and of those who judge.

    Raises
    ------
    SessionError
        If its `split.json` is not there or damaged.
    """
    try:
        split = json.loads((folder / "split.json").read_text())
        return tuple(split["train"]), tuple(split["held_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"Run {folder.name}: found no split.json that can be read ({error}), expected that of a stopped run."
        raise SessionError(msg) from error


class RunRecord:
    """Writes a run's files as it goes; what is written stays whatever happens to the process.

    - `config.json`: what was asked for;
    - `split.json`: who trains and who judges;
    - `inputs.json`: what a tuning began from, by digests;
    - `events.jsonl`: what happened, one event a line, over all sittings of a run that was resumed;
    - `history.csv`: a row for each step, and `epochs.csv`: one for each epoch, each of them once;
    - `metrics.tsv`: held-out cases before and after tuning;
    - `checkpoint-best.safetensors`: the best trained weights so far.

    Parameters
    ----------
    folder
        A folder that may not exist yet.
    config
        Written at once as `config.json`; None leaves the one that is there.
    after_step
        See `reopen`.

    Raises
    ------
    SessionError
        Here and in all methods, if the disk is full or read-only; what is there stays.
    """

    def __init__(self, folder: Path, config: BaseModel | None, *, after_step: int = 0) -> None:
        self.folder = folder
        if config is not None:
            write_json(folder / "config.json", json.loads(config.model_dump_json()))
        self._events = folder / "events.jsonl"
        drop_torn_line(self._events)
        self._history = GrowingTable(folder / "history.csv", after_step=after_step)
        self._epochs = GrowingTable(folder / "epochs.csv", after_step=after_step)
        self._step = after_step

    @classmethod
    def reopen(cls, folder: Path, *, after_step: int) -> Self:
        """Go on with the record of a run that goes on after a checkpoint.

        Steps and epochs that the checkpoint does not hold are taken out of the tables, since they
        will be done again; `events.jsonl` keeps them, and a new `Started` says after which step the
        run goes on.

        Parameters
        ----------
        folder
            Of the run.
        after_step
            The last step that the checkpoint holds.

        Raises
        ------
        SessionError
            If there is no run in the folder.
        """
        if not (folder / "config.json").exists():
            msg = f"Run {folder.name}: found no config.json in {folder}, expected the folder of a stopped run."
            raise SessionError(msg)
        return cls(folder, None, after_step=after_step)

    def inputs(self, model: ModelReference, cases: Mapping[str, str], device: torch.device) -> None:
        """Write what a run began from, so that a repetition can see whether it begins from the same.

        Parameters
        ----------
        model
            That was tuned.
        cases
            Digest of each case by its name.
        device
            That computed; the sums of another, or of another number of threads, differ in their last bits.
        """
        machine = {"device": device.type, "threads": torch.get_num_threads(), "torch": torch.__version__}
        content = {"model": model.model_dump(), "cases": dict(cases), "napari_pcs": __version__, **machine}
        write_json(self.folder / "inputs.json", content)

    def split(self, training: Sequence[str], held_out: Sequence[str]) -> None:
        """Write who trains and who judges."""
        write_json(self.folder / "split.json", {"train": list(training), "held_out": list(held_out)})

    def add(self, event: Event) -> None:
        """Append an event to `events.jsonl`, and to the tables that show it."""
        write_event(self._events, event)
        match event:
            case Step():
                self._step = event.step
                own = {name: getattr(event, name) for name in _HISTORY}
                self._history.add({**own, **event.figures, **own})
            case Epoch():
                own = event.model_dump(exclude={"epoch", "figures"})
                held_out = {f"validation_{name}": value for name, value in event.figures.items()}
                self._epochs.add({"epoch": event.epoch, "step": self._step, **own, **held_out})
            case Tuned():
                write_text(self.folder / "metrics.tsv", table([*event.before, *event.after]))

    def keep(self, state: dict[str, Tensor]) -> None:
        """Write the best trained weights so far."""
        write_bytes(self.folder / "checkpoint-best.safetensors", save(state))
