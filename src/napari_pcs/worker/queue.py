"""What waits to be done, most urgent first; one thing is done at a time."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING

from napari_pcs.stop import StopToken
from napari_pcs.worker.messages import Predict, Prefetch, Tune, Warm

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator
    from typing import Any

    from napari_pcs.worker.messages import Request

    Piece = Callable[[StopToken], Iterator[Any]]

__all__ = ["Job", "Queue"]

_URGENCY: dict[type[Request], int] = {Predict: 0, Tune: 0, Warm: 1, Prefetch: 2}
_MOST_URGENT = 0


class Job:
    """A request while it waits or is worked on.

    Attributes
    ----------
    pieces
        What is left to be done, one after the other; None before it was first looked at. Between two
        pieces more urgent jobs have their turn; a piece that was interrupted is begun again.
    stop
        Of the piece that runs now.
    cancelled, interrupted
        Why that was set: for good, or for something more urgent.
    """

    def __init__(self, request: Request, number: int) -> None:
        self.request = request
        self.rank = (_URGENCY[type(request)], number)
        self.pieces: deque[Piece] | None = None
        self.stop = StopToken()
        self.cancelled = self.interrupted = False


class Queue:
    """Jobs in order of urgency, then of arrival. Safe for threads."""

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, request: Request) -> list[Job]:
        """Add a request; return waiting jobs that it replaces.

        `Prefetch` gives way to what somebody waits for, and only the latest counts.
        """
        with self._changed:
            replaced = (
                self._drop(lambda job: isinstance(job.request, Prefetch)) if isinstance(request, Prefetch) else []
            )
            job = Job(request, next(self._numbers))
            self._waiting.append(job)
            running = self._running
            if running is not None and _is_prefetch(running) and job.rank[0] == _MOST_URGENT:
                running.interrupted = True
                running.stop.set()
            self._changed.notify()
        return replaced

    def wait(self, seconds: float) -> bool:
        """Wait so long for a job, or for the end of all; say whether there was either. No job is running meanwhile."""
        with self._changed:
            self._running = None
            return self._changed.wait_for(self._anything, seconds)

    def take(self) -> Job | None:
        """Wait for the most urgent job and call it running; None if the queue is closed."""
        with self._changed:
            self._running = None
            self._changed.wait_for(self._anything)
            if self._closed:
                return None
            job = min(self._waiting, key=lambda job: job.rank)
            self._waiting.remove(job)
            job.stop, job.interrupted = StopToken(), False
            self._running = job
            return job

    def put_back(self, job: Job) -> bool:
        """Let the running job wait for its next turn; refused if it was cancelled."""
        with self._changed:
            if job.cancelled:
                return False
            self._running = None
            self._waiting.append(job)
            return True

    def cancel(self, of: int | None = None) -> list[Job]:
        """Cancel the job of a request, or all; the running one is told to stop, those that waited are returned."""
        with self._changed:
            return self._drop(lambda job: of is None or job.request.id == of)

    def close(self) -> None:
        """Cancel all, and have nothing taken any more."""
        with self._changed:
            self._closed = True
            self._drop(lambda _job: True)
            self._changed.notify_all()

    def _anything(self) -> bool:
        return bool(self._waiting) or self._closed

    def _drop(self, meant: Callable[[Job], bool]) -> list[Job]:
        if self._running is not None and meant(self._running):
            self._running.cancelled = True
            self._running.stop.set()
        dropped = [job for job in self._waiting if meant(job)]
        self._waiting = [job for job in self._waiting if not meant(job)]
        return dropped


def _is_prefetch(job: Job) -> bool:
    return isinstance(job.request, Prefetch)
