"""The worker's loop: hears requests while it works, works on one at a time, and answers each."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from napari_pcs.errors import CancelledError
from napari_pcs.worker.channel import number_of, read_request
from napari_pcs.worker.events import as_told
from napari_pcs.worker.failures import failure_of
from napari_pcs.worker.messages import LOST_DEVICE, Cancel, Quit, Reply
from napari_pcs.worker.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_pcs.worker.channel import Channel
    from napari_pcs.worker.messages import Request
    from napari_pcs.worker.queue import Job, Piece

__all__ = ["Server", "Work"]

_REST_AFTER_S = 10.0
_log = logging.getLogger(__name__)


class Work(Protocol):
    """What a server can do."""

    def prepare(self) -> None:
        """Import and load what every request needs."""

    def pieces(self, request: Request) -> Sequence[Piece]:
        """Return what is to be done for a request: pieces between which others may have their turn."""

    def relieve(self) -> None:
        """Let go of what takes memory and can be had again."""

    def rest(self) -> None:
        """Let others have what is not needed while nobody asks for anything."""


class Server:
    """Serves one client until it is gone.

    Parameters
    ----------
    channel
        To the client.
    work
        What is done for a request.
    leave
        Ends the process with an exit code, at once: nobody waits for what a library does at its end.
    """

    def __init__(self, channel: Channel, work: Work, leave: Callable[[int], Any] = os._exit) -> None:
        self._channel, self._work, self._leave = channel, work, leave
        self._queue = Queue()

    def run(self) -> None:
        """Serve. The caller's thread computes; another one listens."""
        threading.Thread(target=self._listen, name="requests", daemon=True).start()
        self._work.prepare()
        self._send(Reply(id=0, kind="ready"))
        while (job := self._next()) is not None:
            self._do(job)
        self._leave(0)

    def _next(self) -> Job | None:
        if not self._queue.wait(_REST_AFTER_S):
            self._work.rest()
        return self._queue.take()

    def _listen(self) -> None:
        for line in self._channel.lines():
            try:
                request = read_request(line)
            except ValueError as error:
                _log.exception("A request could not be read")
                sentence = f"Found a request that could not be read ({error}), expected one that the worker knows."
                self._send(Reply(id=number_of(line), kind="failed", content={"sentence": sentence}))
            else:
                self._hear(request)
        # Whoever has sent them is gone, however it ended; no orphan keeps a GPU.
        self._queue.close()
        self._leave(0)

    def _hear(self, request: Any) -> None:
        match request:
            case Quit():
                self._say_cancelled(self._queue.cancel())
                self._send(Reply(id=request.id, kind="done"))
                self._queue.close()  # the last word: the other thread leaves as soon as it sees this
            case Cancel():
                self._say_cancelled(self._queue.cancel(request.of))
                self._send(Reply(id=request.id, kind="done"))
            case _:
                self._say_cancelled(self._queue.put(request))

    def _do(self, job: Job) -> None:
        try:
            if job.pieces is None:
                job.pieces = deque(self._work.pieces(job.request))
            if job.pieces:
                for event in job.pieces[0](job.stop):
                    self._tell(job, event)
                job.pieces.popleft()
        except CancelledError:
            self._end(job, interrupted=job.interrupted)
        except Exception as error:  # noqa: BLE001  the one place where anything becomes a sentence
            self._fail(job, error)
        else:
            if job.pieces:
                self._end(job, interrupted=True)
            else:
                self._send(Reply(id=job.request.id, kind="done"))

    def _end(self, job: Job, *, interrupted: bool) -> None:
        """Leave a job for its next turn, or for good."""
        if not (interrupted and self._queue.put_back(job)):
            self._say_cancelled([job])

    def _fail(self, job: Job, error: Exception) -> None:
        failure = failure_of(error, job.request)
        what = type(job.request).__name__
        _log.error("%s failed: %s", what, failure.sentence, exc_info=error if failure.details else None)
        content = {"sentence": failure.sentence, **({"details": failure.details} if failure.details else {})}
        if failure.no_memory:
            _drop_frames(error)
            self._work.relieve()
        self._send(Reply(id=job.request.id, kind="failed", content=content))
        if failure.lost_device:
            self._leave(LOST_DEVICE)

    def _tell(self, job: Job, event: Any) -> None:
        name, content = as_told(event)
        self._send(Reply(id=job.request.id, kind="event", name=name, content=content))

    def _say_cancelled(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._send(Reply(id=job.request.id, kind="cancelled"))

    def _send(self, reply: Reply) -> None:
        try:
            self._channel.send(reply)
        except OSError:
            self._queue.close()
            self._leave(0)


def _drop_frames(error: BaseException | None) -> None:
    """Let go of what the functions held that an error came through: what did not fit is among it."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
