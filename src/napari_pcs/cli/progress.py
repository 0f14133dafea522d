"""Progress of training on stderr: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from napari_pcs.training.events import Epoch, Event, Started, Step
from napari_pcs.training.pace import Pace, clock
from napari_pcs.training.words import resources, sentence

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["TrainingProgress"]

_SHORT_RUN = 100
"""Steps of a run that has a line for each of them in a log."""
_REFRESHES_PER_SECOND = 4


class TrainingProgress:
    """Context manager that shows the events of a training run.

    On a terminal a bar over all steps with epoch, loss, samples per second and the time that is
    left; elsewhere a line for each epoch, and for each step of a short run. What is left follows
    from the moving mean of the time that a step takes, and is given as h:mm.

    Parameters
    ----------
    stream
        Where to; stderr if left out, so that stdout is free for the result.
    lap
        What comes between two looks at those held out, in a word.
    """

    def __init__(self, stream: TextIO | None = None, *, lap: str = "epoch") -> None:
        self._stream, self._lap = stream, lap
        self._pace = Pace()
        self._epochs = 0
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        from rich.console import Console

        console = Console(file=self._stream or sys.stderr, highlight=False, markup=False, soft_wrap=True)
        self._console = console
        if console.is_terminal:
            self._bar = _bar(console)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: Event) -> None:
        """Show an event, if it says anything."""
        if told := sentence(event):
            self._console.print(told)
        match event:
            case Started():
                self._begin(event)
            case Step():
                self._step(event)
            case Epoch():
                self._console.print(self._epoch_line(event))

    def _begin(self, event: Started) -> None:
        self._pace.begin(event)
        self._epochs = event.epochs
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.start()
            # Where the time decides, nobody knows how many steps there will be: the bar only moves.
            self._bar.add_task(event.what, total=event.steps or None, completed=event.steps_done, figures="")

    def _step(self, event: Step) -> None:
        self._pace.add(event)
        figures = f"loss {event.loss:.4g}  {self._speed()}"
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.update(
                    task,
                    completed=event.step,
                    description=self._place(self._lap, event.epoch, self._epochs),
                    figures=figures,
                )
        elif self._pace.steps <= _SHORT_RUN:
            step = self._place("step", event.step, self._pace.steps)
            self._console.print(f"{step}  {self._lap} {event.epoch}  {figures}")

    def _epoch_line(self, event: Epoch) -> str:
        validation = "" if event.validation_loss is None else f"  validation {event.validation_loss:.4g}"
        return (
            f"{self._place('epoch', event.epoch, self._epochs)}  loss {event.loss:.4g}{validation}"
            f"  {event.seconds:.1f} s  {self._speed()}  {resources(event)}"
        )

    @staticmethod
    def _place(what: str, number: int, of: int) -> str:
        return f"{what} {number} of {of}" if of else f"{what} {number}"

    def _speed(self) -> str:
        rate, left = self._pace.samples_per_second, self._pace.seconds_left
        told = [f"{rate:.3g} samples/s"] if rate is not None else []
        return "  ".join([*told, f"{clock(left)} h left"] if left else told)


def _bar(console: object) -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,  # type: ignore[arg-type]
        refresh_per_second=_REFRESHES_PER_SECOND,
    )
