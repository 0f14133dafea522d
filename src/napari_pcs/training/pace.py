"""How fast a run goes and when it will be done, from its last steps."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_pcs.training.events import Started, Step

__all__ = ["Pace", "clock"]

_WINDOW = 50
_MINUTE_S = 60


class Pace:
    """Moving means over the last 50 steps: the first ones are slow and soon forgotten.

    Attributes
    ----------
    steps
        Of the whole run.
    step
        The last one that was done.
    """

    def __init__(self) -> None:
        self.steps = self.step = 0
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._samples: deque[int] = deque(maxlen=_WINDOW)

    def begin(self, event: Started) -> None:
        """Forget what was; a run begins, or goes on."""
        self.steps, self.step = event.steps, event.steps_done
        self._seconds.clear()
        self._samples.clear()

    def add(self, event: Step) -> None:
        """Take one more step into account."""
        self.step = event.step
        self._seconds.append(event.seconds)
        self._samples.append(event.samples)

    @property
    def samples_per_second(self) -> float | None:
        """Samples that are looked at in a second, None before the first step."""
        seconds = sum(self._seconds)
        return sum(self._samples) / seconds if seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Time until the last step, None before the first step and where nobody knows which will be the last."""
        if not self._seconds or not self.steps:
            return None
        return max(self.steps - self.step, 0) * sum(self._seconds) / len(self._seconds)


def clock(seconds: float) -> str:
    """Return a duration as h:mm, rounded up to whole minutes."""
    minutes = math.ceil(round(seconds, 3) / _MINUTE_S)
    return f"{minutes // 60}:{minutes % 60:02d}"
