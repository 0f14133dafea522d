"""The other end of the line: starts the worker, asks it, and says so when it dies. Knows neither Qt nor torch."""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from napari_pcs.errors import CancelledError, PcsError
from napari_pcs.worker.events import Predicted, rebuilt
from napari_pcs.worker.handover import case_of, discard, fetch
from napari_pcs.worker.messages import Cancel, Predict, Warm
from napari_pcs.worker.process import Answer, Process, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from napari_pcs.case import Case
    from napari_pcs.stop import StopToken
    from napari_pcs.worker.messages import Request

__all__ = ["Worker", "WorkerError"]

COMMAND = (sys.executable, "-P", "-m", "napari_pcs.worker")
"""-P: a file of the user's in the working folder must not be taken for a module."""
_LOOK_EVERY_S = 0.05
_QUIT_S = 2.0
_log = logging.getLogger(__name__)


class Worker:
    """A process that predicts and tunes, started when it is first needed and anew when it has died.

    Its methods may be called from any thread, and none waits for the process to start. Closed, or
    left with the interpreter, the process ends; left without a word, it ends by itself.

    Parameters
    ----------
    command
        What to start instead of `python -m napari_pcs.worker`.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = tuple(command or COMMAND)
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._processes: list[Process] = []
        self._warm: Warm | None = None
        weakref.finalize(self, _end_all, self._processes)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Number of the process, None where none runs."""
        with self._lock:
            return self._processes[-1].pid if self._processes and self._processes[-1].is_alive else None

    def start(self) -> None:
        """Start the process, if none runs; it gets ready by itself.

        Raises
        ------
        WorkerError
            If the system refuses.
        """
        with self._lock:
            self._running()

    def wait_until_ready(self, seconds: float) -> bool:
        """Block until the process can work, for benchmarks and tests; say whether it can."""
        with self._lock:
            process = self._running()
        return process.ready.wait(seconds)

    def run(
        self, request: Request, stop: StopToken, *, patience_s: float = 10.0, case: Case | None = None
    ) -> Iterator[Any]:
        """Have something done and yield what is told of it, the result last.

        Parameters
        ----------
        request
            `Predict`, `Tune`, `Warm` or `Prefetch`.
        stop
            Setting it cancels the request. What follows is still yielded: cancelled tuning ends with its model.
        patience_s
            The process is killed if it has not stopped after so many seconds.
        case
            That of a `Predict`, where the caller has it; it is read again otherwise.

        Yields
        ------
        Event, Stage or Prediction
            A `Tune` ends with `Tuned`, a `Predict` with a `Prediction`.

        Raises
        ------
        CancelledError
            If it was stopped before it had a result.
        WorkerError
            If the process died; the next request starts another one.
        PcsError
            With the worker's own sentence, if it failed.
        """
        lost = None
        for event in self._events(request, stop, patience_s):
            if not isinstance(event, Predicted):
                yield event
                continue
            assert isinstance(request, Predict)  # noqa: S101  nothing else predicts for its caller
            case = case_of(request.case) if case is None else case
            found = fetch(event, case)
            lost = event if found is None else None
            if found is not None:
                yield replace(found, kept=event.kept)
        if lost is not None:
            yield from self._anew(request, lost, stop, patience_s, case)

    def _anew(
        self, request: Request, lost: Predicted, stop: StopToken, patience_s: float, case: Case | None
    ) -> Iterator[Any]:
        """Predict a case again whose kept prediction turned out to be damaged, or was cleared away meanwhile."""
        if not lost.kept:
            msg = f"The prediction could not be read from {lost.folder}. Predict again."
            raise PcsError(msg)
        again = request.model_copy(update={"again": True})
        yield from self.run(again, stop, patience_s=patience_s, case=case)

    def _events(self, request: Request, stop: StopToken, patience_s: float) -> Iterator[Any]:
        stop.check()
        inbox: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        process, number = self._send(request, inbox.put)
        told_at, ended = None, False
        try:
            while not ended:
                if stop.is_set() and told_at is None:
                    told_at = time.monotonic()
                    process.send(Cancel(of=number))
                if told_at is not None and time.monotonic() - told_at > patience_s:
                    process.kill()
                    msg = "Cancelled. It did not stop by itself, so its process was ended. The labels are untouched."
                    raise CancelledError(msg)
                try:
                    answer = inbox.get(timeout=_LOOK_EVERY_S)
                except queue.Empty:
                    continue
                ended = isinstance(answer, WorkerError) or answer.is_end
                yield from _content(answer)
        finally:
            if not ended:
                process.send(Cancel(of=number))  # nobody listens any more
                process.answer_with(number, _let_go)

    def send(self, request: Request, heard: Callable[[Any], None] | None = None) -> None:
        """Have something done that nobody waits for: `Warm`, `Prefetch`. What goes wrong is logged.

        Parameters
        ----------
        request
            What to do.
        heard
            Called with every event, on a thread of the worker's.
        """

        def heed(answer: Answer) -> None:
            try:
                for event in _content(answer):
                    if heard is not None:
                        heard(event)
            except CancelledError:
                _log.debug("%s was cancelled", type(request).__name__)
            except PcsError as error:
                _log.warning("%s: %s", type(request).__name__, error)

        self._send(request, heed)

    def close(self, seconds: float = _QUIT_S) -> None:
        """Let the process end, and kill it if it has not done so after some seconds."""
        with self._lock:
            processes = list(self._processes)
            self._processes.clear()
        _end_all(processes, seconds)

    def _send(self, request: Request, heed: Callable[[Answer], None]) -> tuple[Process, int]:
        """Send a request to a process that runs."""
        with self._lock:
            if isinstance(request, Warm):
                self._warm = request
            process = self._running(but=request)
            number = next(self._numbers)
            process.send(request.model_copy(update={"id": number}), heed)
        return process, number

    def _running(self, but: Request | None = None) -> Process:
        """Return the process, or a new one that loads what was loaded last."""
        if self._processes and self._processes[-1].is_alive:
            return self._processes[-1]
        process = Process(self._command)
        self._processes[:] = [process]
        if self._warm is not None and self._warm is not but:
            process.send(self._warm.model_copy(update={"id": next(self._numbers)}))
        return process


def _end_all(processes: list[Process], seconds: float = _QUIT_S) -> None:
    for process in processes:
        process.quit(seconds)


def _content(answer: Answer) -> Iterator[Any]:
    """Yield the event that an answer tells, if it does; raise what it says otherwise."""
    if isinstance(answer, WorkerError):
        raise answer
    if answer.kind == "cancelled":
        msg = "Cancelled. Nothing was changed."
        raise CancelledError(msg)
    if answer.kind == "failed":
        if "details" in answer.content:
            _log.error("In the worker:\n%s", answer.content["details"])
        raise PcsError(str(answer.content["sentence"]))
    if answer.kind == "event":
        try:
            yield rebuilt(answer.name, answer.content)
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("The worker told of %s, which is not understood here (%s)", answer.name, error)


def _let_go(answer: Answer) -> None:
    """Take an answer that nobody waits for any more."""
    with suppress(PcsError):
        for event in _content(answer):
            if isinstance(event, Predicted):
                discard(event)
