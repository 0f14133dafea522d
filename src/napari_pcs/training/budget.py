"""How long a training may take, in whole rounds."""

from __future__ import annotations

import time

__all__ = ["Budget"]


class Budget:
    """Lets rounds begin as long as the next one will probably end in time; the first one always.

    Whole rounds only: what comes of them does not depend on how fast the machine was, and as many
    rounds again give the same weights.

    Parameters
    ----------
    seconds
        From now on; None is without end.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._began = self._asked = time.perf_counter()
        self._rounds = 0
        self._longest = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until it is used up, None if it is without end."""
        return None if self._seconds is None else max(0.0, self._began + self._seconds - time.perf_counter())

    def allows_another_round(self) -> bool:
        """Say whether a round may begin; asked before every one of them.

        The first round prepares what the others read, so its length says nothing about theirs.
        """
        now = time.perf_counter()
        if self._rounds > 1:
            self._longest = max(self._longest, now - self._asked)
        self._asked = now
        self._rounds += 1
        if self._rounds == 1 or self._seconds is None:
            return True
        return now - self._began + self._longest <= self._seconds
