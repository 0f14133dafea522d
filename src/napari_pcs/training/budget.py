"""How long a training may take, in whole rounds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Budget"]


class Budget:
    """Lets rounds begin as long as the next one will probably end in time; the first one always.

    Whole rounds only: what comes of them does not depend on how fast the machine was, and as many
    rounds again give the same weights.

    Parameters
    ----------
    seconds
        From now on; None is without end.
    prepared_s
        Says how many seconds have gone into what is computed once, by whatever round comes upon it first.
    preparing_s
        Says about how many of them a round, counted from 0, will take.
    """

    def __init__(
        self,
        seconds: float | None,
        prepared_s: Callable[[], float] = lambda: 0.0,
        preparing_s: Callable[[int], float] = lambda _round: 0.0,
    ) -> None:
        self._seconds, self._prepared_s, self._preparing_s = seconds, prepared_s, preparing_s
        self._began = time.perf_counter()
        self._asked: tuple[float, float] | None = None
        self._rounds = 0
        self._longest = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until it is used up, None if it is without end."""
        return None if self._seconds is None else max(0.0, self._began + self._seconds - time.perf_counter())

    def allows_another_round(self) -> bool:
        """Say whether a round may begin; asked before every one of them."""
        now, prepared = time.perf_counter(), self._prepared_s()
        if self._asked is not None:
            self._longest = max(self._longest, now - self._asked[0] - (prepared - self._asked[1]))
        self._asked = now, prepared
        number, self._rounds = self._rounds, self._rounds + 1
        if number == 0 or self._seconds is None:
            return True
        return now - self._began + self._longest + self._preparing_s(number) <= self._seconds
