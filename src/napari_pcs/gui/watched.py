"""A pre-training run as its events tell it: what the panel draws, put together off the GUI thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.training.events import Epoch, Pictured, Pretrained, Skipped, Started, Step, Stopped
from napari_pcs.training.pace import Pace
from napari_pcs.training.words import sentence

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_pcs.training.events import Event

__all__ = ["Reconstruction", "Watched", "Watcher"]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What a network was given, was to find, and found.

    Attributes
    ----------
    volumes
        (sample, image, x, y, z) at 1 mm in RAS, or (sample, image, height, width).
    images
        Name of each image.
    """

    epoch: int
    volumes: NDArray[np.float32]
    images: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Watched:
    """A run as it is at one moment.

    Attributes
    ----------
    steps
        (epoch, loss) of each step, with the part of an epoch that is done.
    sentence
        What it said last.
    seconds_left, samples_per_second
        None before the first step.
    stopped
        Only when it was stopped with a checkpoint.
    result
        Only when it is over.
    """

    run: Path
    started: Started | None
    steps: tuple[tuple[float, float], ...]
    epochs: tuple[Epoch, ...]
    skipped: tuple[Skipped, ...]
    sentence: str
    step: int
    seconds_left: float | None
    samples_per_second: float | None
    picture: Reconstruction | None
    stopped: Stopped | None
    result: Pretrained | None


class Watcher:
    """Hears all events of a run, of each sitting, and says how it stands."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._pace = Pace()
        self._started: Started | None = None
        self._steps: list[tuple[int, float, float]] = []
        self._epochs: list[tuple[int, Epoch]] = []
        self._skipped: dict[str, Skipped] = {}
        self._sentence = ""
        self._picture: Reconstruction | None = None
        self._stopped: Stopped | None = None
        self._result: Pretrained | None = None

    def hear(self, events: Iterable[Event]) -> Watched:
        """Take some more events into account."""
        pictured: Pictured | None = None
        for event in events:
            self._sentence = sentence(event) or self._sentence
            match event:
                case Started():
                    self._begin(event)
                case Step():
                    self._pace.add(event)
                    self._steps.append((event.step, self._in_epochs(event), event.loss))
                case Epoch():
                    self._epochs.append((self._pace.step, event))
                case Skipped():
                    self._skipped[event.name] = event
                case Pictured():
                    pictured = event
                case Stopped():
                    self._stopped = event
                case Pretrained():
                    self._result = event
        if pictured is not None:
            self._picture = self._read(pictured)
        return self._now()

    def _begin(self, event: Started) -> None:
        self._pace.begin(event)
        self._started, self._stopped, self._result = event, None, None
        # What was done after the checkpoint that it goes on from will be done again.
        self._steps = [step for step in self._steps if step[0] <= event.steps_done]
        self._epochs = [epoch for epoch in self._epochs if epoch[0] <= event.steps_done]

    def _in_epochs(self, event: Step) -> float:
        started = self._started
        return event.step * started.epochs / started.steps if started and started.steps else float(event.epoch)

    def _read(self, event: Pictured) -> Reconstruction | None:
        try:
            volumes = np.load(self._run / event.volumes).astype(np.float32)
        except (OSError, ValueError) as error:
            self._sentence = f"The picture after epoch {event.epoch} could not be read ({error})."
            return self._picture
        return Reconstruction(event.epoch, volumes, event.images)

    def _now(self) -> Watched:
        return Watched(
            run=self._run,
            started=self._started,
            steps=tuple((x, loss) for _, x, loss in self._steps),
            epochs=tuple(epoch for _, epoch in self._epochs),
            skipped=tuple(self._skipped.values()),
            sentence=self._sentence,
            step=self._pace.step,
            seconds_left=self._pace.seconds_left,
            samples_per_second=self._pace.samples_per_second,
            picture=self._picture,
            stopped=self._stopped,
            result=self._result,
        )
