"""A tuning as its events tell it: its curves, and in a sentence how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_pcs.training.events import Epoch, Preparing, Started, Step, Tuned

if TYPE_CHECKING:
    from napari_pcs.training.config import TuneConfig
    from napari_pcs.training.events import Event

__all__ = ["BUDGETS_S", "Progress"]

BUDGETS_S = {"30s": 30.0, "2min": 120.0}
"""Seconds that a budget stands for; the others last until it stops improving."""
_A_FEW = 2
"""Steps after which it is known how long one takes."""
_SHORT_S, _MINUTE_S = 3.0, 90.0
"""Shorter than the one is told with a decimal, longer than the other in minutes."""


@dataclass
class Progress:
    """Hears the events of one tuning.

    Attributes
    ----------
    curves
        Points (seconds since training began, value) by name: "loss", "held out", the figures of a step,
        and those of held-out cases after "held out ".
    sentence
        How it stands.
    """

    config: TuneConfig
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    sentence: str = ""
    _asked: float | None = None
    _began: float | None = None
    _first: float | None = None
    _last: float | None = None
    _started: Started | None = None
    _steps: int = 0
    _rounds: int = 0
    _best: tuple[float, int] | None = None

    def hear(self, event: Event, now: float) -> None:
        """Take an event into account that arrived at a moment (s, of a clock that only goes forward)."""
        self._asked = now if self._asked is None else self._asked
        match event:
            case Preparing():
                self.sentence = event.sentence
            case Started():
                self._began, self._started = now, event
                share = event.trainable_parameters / max(event.total_parameters, 1)
                self.sentence = f"Training {event.trainable_parameters:,} weights ({share:.1%}) on {event.device}"
            case Step():
                self._stepped(event, now)
            case Epoch():
                self._rounded(event, now)
            case Tuned():
                self.sentence = self._account(event, now)

    def seconds(self, now: float) -> float:
        """Return the time since training began, 0 before it."""
        return 0.0 if self._began is None else now - self._began

    def _stepped(self, event: Step, now: float) -> None:
        self._steps, self._last = event.step, now
        self._first = now if self._first is None else self._first
        self._add("loss", now, event.loss)
        for name, value in event.figures.items():
            self._add(name, now, value)
        self.sentence = f"Step {event.step}{self._left(now)}"

    def _rounded(self, event: Epoch, now: float) -> None:
        self._rounds, self._last = event.epoch, now
        self._add("held out", now, event.validation_loss)
        for name, value in event.figures.items():
            self._add(f"held out {name}", now, value)
        if event.judged is not None and (self._best is None or event.judged < self._best[0]):
            self._best = (event.judged, event.epoch)

    def _account(self, event: Tuned, now: float) -> str:
        """Say what was done where, and what the time went into."""
        name, total = event.model.name, _exactly(event.seconds_total)
        if self._started is None or self._first is None or self._last is None or self._asked is None:
            return f"{name}: {total} in all"
        where = f"{self._started.device}, {self._started.precision}"
        parts = (
            f"{_exactly(self._first - self._asked)} to the first step",
            f"{_exactly(self._last - self._first)} for the others",
            f"{_exactly(now - self._last)} to judge and save",
        )
        return f"{name}: {self._steps} steps on {where}, {total} in all ({', '.join(parts)})"

    def _add(self, name: str, now: float, value: float | None) -> None:
        if value is not None:
            self.curves.setdefault(name, []).append((self.seconds(now), value))

    def _left_of_round(self, now: float) -> float:
        """Return the seconds until the round is over: whole rounds only."""
        if self._first is None or self._steps < _A_FEW:
            return 0.0
        steps = -self._steps % self.config.round_steps
        return steps * (now - self._first) / (self._steps - 1)

    def _left(self, now: float) -> str:
        """Say how long it will take, as far as anybody can know."""
        if self._started is not None and self._started.steps:
            mean = self.seconds(now) / self._steps
            left = max(self._started.steps - self._steps, 0) * mean
            return f" of {self._started.steps}, about {_duration(left)} left"
        budget = BUDGETS_S.get(self.config.budget)
        if budget is not None:
            left = max(budget - self.seconds(now), self._left_of_round(now))
            return f", about {_duration(left)} left" if left > 0 else ", about to end"
        if self._best is None:
            return ", until it stops improving"
        since = self._rounds - self._best[1]
        return f", round {self._rounds + 1}: {since} of {self.config.patience} rounds without a better one"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _MINUTE_S else f"{seconds / 60:.0f} min"


def _exactly(seconds: float) -> str:
    if seconds < _SHORT_S:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
