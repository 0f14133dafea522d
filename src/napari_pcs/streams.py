"""Stages that overlap: each works in threads of its own on what the stage before it has finished.

Reading, computing and writing one thing after the other leaves each of them idle most of the time.
Here the first item is written while the second one is computed and the third one is read. Threads
are enough as long as the stages spend their time in code that lets others run (files, zlib, numpy,
scipy, SimpleITK and torch do).
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from napari_pcs.errors import CancelledError
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["Ended", "Stage", "left_behind", "stream"]

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 8
"""Values between being read and being reported, over all stages: one in each of five, and a few that wait."""
_POLL_S = 0.1
_THREADS = "stream-"


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    Attributes
    ----------
    name
        For times and reports.
    work
        Takes what the stage before returned, and a token that is set when all is to stop. The first
        stage takes an item and returns an iterator over its parts.
    workers
        Threads that do it at the same time.
    completes
        Whether a stop waits for the part that it works on, however long that takes: it writes, for example.
    """

    name: str
    work: Callable[[Any, StopToken], Any]
    workers: int = 1
    completes: bool = True


@dataclass(frozen=True, eq=False)
class Ended(Generic[R]):
    """What became of one part of an item.

    Attributes
    ----------
    number
        Which item, and which of its parts, counted from 0: the same however the work was scheduled.
    item
        What it is a part of.
    result
        What the last stage returned; None if one failed.
    seconds
        Time at work in each stage, without waiting.
    given
        What the stage was given that failed; None if that was the first one, or none failed.
    error
        Why it failed.
    stage
        The last stage that worked on it.
    """

    number: tuple[int, int]
    item: Any
    result: R | None
    seconds: Mapping[str, float]
    given: Any
    error: Exception | None
    stage: str


def stream(
    items: Iterable[Any],
    stages: Sequence[Stage],
    *,
    stop: StopToken | None = None,
    in_flight: int = IN_FLIGHT,
    patience_s: float = math.inf,
) -> Iterator[Ended[Any]]:
    """Send items through stages that work at the same time; yield each part when it leaves the last one.

    Parameters
    ----------
    items
        Taken as fast as they are worked on.
    stages
        Two or more. A part whose work fails leaves at once, and the others go on.
    stop
        Set to end early.
    in_flight
        Parts that may exist at a time: what is read waits until an earlier one was taken from here.
    patience_s
        How long a stop waits for stages that need not complete, in seconds. What they are doing then
        goes on in the background and comes to nothing; see `left_behind`.

    Yields
    ------
    Ended
        In the order of completion. After a stop, what has left the last stage all the same.

    Raises
    ------
    CancelledError
        Soon after `stop` is set, or if a stage raises it.
    BaseException
        Whatever `items` raises, or a stage that is no `Exception`.
    """
    flow = _Flow(stages, _Halt(stop), in_flight, patience_s)
    try:
        flow.start(items)
        yield from flow.results()
    except CancelledError:
        flow.end()
        yield from flow.finished()
        raise
    finally:
        flow.end()


def left_behind() -> bool:
    """Say whether a stage still works that a stop did not wait for: a process that ends in order would wait or fail."""
    return any(thread.name.startswith(_THREADS) for thread in threading.enumerate())


class _Halt(StopToken):
    """Set when the flow ends, and when whoever started it asks to stop."""

    def __init__(self, outer: StopToken | None) -> None:
        super().__init__()
        self._outer = outer or StopToken()

    def is_set(self) -> bool:
        return super().is_set() or self._outer.is_set()


@dataclass(eq=False)
class _Part:
    number: tuple[int, int]
    item: Any
    value: Any
    seconds: dict[str, float] = field(default_factory=dict)

    def ended(self, stage: Stage, error: Exception | None = None) -> Ended[Any]:
        result, given = (None, self.value) if error else (self.value, None)
        return Ended(self.number, self.item, result, MappingProxyType(self.seconds), given, error, stage.name)


class _Flow:
    """The threads of one stream and what lies between them."""

    def __init__(self, stages: Sequence[Stage], halt: StopToken, in_flight: int, patience_s: float) -> None:
        self._stages, self._halt, self._patience_s = stages, halt, patience_s
        self._room = threading.Semaphore(in_flight)
        self._waiting: list[SimpleQueue[_Part | None]] = [SimpleQueue() for _ in stages[1:]]
        self._left = [stage.workers for stage in stages]
        self._count, self._taking = threading.Lock(), threading.Lock()
        self._done: SimpleQueue[Ended[Any] | BaseException | None] = SimpleQueue()
        self._threads: list[tuple[threading.Thread, Stage]] = []

    def start(self, items: Iterable[Any]) -> None:
        numbered = enumerate(items)
        threads = []
        for n, stage in enumerate(self._stages):
            work = partial(self._work, n - 1) if n else partial(self._read, numbered)
            threads += [(self._thread(stage, work, partial(self._leave, n)), stage) for _ in range(stage.workers)]
        for thread, stage in threads:
            thread.start()
            self._threads.append((thread, stage))

    def _thread(self, stage: Stage, work: Callable[[], None], leave: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  raised again where the results are taken
                self._halt.set()
                self._done.put(error)
            finally:
                leave()

        # A daemon: who asks a second time to stop need not wait for what a stage is doing.
        return threading.Thread(target=run, name=f"{_THREADS}{stage.name}", daemon=True)

    def results(self) -> Iterator[Ended[Any]]:
        while True:
            try:
                found = self._done.get(timeout=_POLL_S)
            except Empty:
                self._halt.check()
                continue
            if isinstance(found, BaseException):
                raise found
            if found is None:
                self._halt.check()
                return
            self._room.release()
            yield found

    def end(self) -> None:
        self._halt.set()
        for n, stage in enumerate(self._stages[1:]):
            for _ in range(stage.workers):  # nobody waits for a stage that is left behind
                self._waiting[n].put(None)
        until = time.monotonic() + self._patience_s
        for thread, stage in self._threads:
            waits = stage.completes or math.isinf(until)
            thread.join(None if waits else max(0.0, until - time.monotonic()))

    def finished(self) -> Iterator[Ended[Any]]:
        """Yield what left the last stage before the threads ended and was not taken."""
        while not self._done.empty():
            found = self._done.get()
            if isinstance(found, Ended) and found.error is None:
                yield found

    def _read(self, numbered: Iterator[tuple[int, Any]]) -> None:
        while self._may_read():
            with self._taking:
                taken = next(numbered, None)
            if taken is None:
                self._room.release()
                return
            number, item = taken
            parts: Iterator[Any] | None = None
            for n in count():
                if n and not self._may_read():
                    return
                part = _Part((number, n), item, None)
                parts = self._next(part, parts)
                if parts is None:
                    break
                self._waiting[0].put(part)

    def _may_read(self) -> bool:
        while not self._room.acquire(timeout=_POLL_S):
            if self._halt.is_set():
                return False
        return not self._halt.is_set()

    def _next(self, part: _Part, parts: Iterator[Any] | None) -> Iterator[Any] | None:
        """Give a part its value; return what reads the next one, None if there was none left or it failed."""
        stage, start = self._stages[0], time.perf_counter()
        try:
            parts = parts or iter(stage.work(part.item, self._halt))
            part.value = next(parts)
        except StopIteration:
            self._room.release()
            return None
        except CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  one item's trouble is not the others'
            part.seconds[stage.name] = time.perf_counter() - start
            self._done.put(part.ended(stage, error))
            return None
        part.seconds[stage.name] = time.perf_counter() - start
        return parts

    def _work(self, n: int) -> None:
        stage = self._stages[n + 1]
        while (part := self._waiting[n].get()) is not None:
            if self._halt.is_set():
                continue
            start = time.perf_counter()
            try:
                part.value = stage.work(part.value, self._halt)
            except CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  one item's trouble is not the others'
                part.seconds[stage.name] = time.perf_counter() - start
                self._done.put(part.ended(stage, error))
                continue
            part.seconds[stage.name] = time.perf_counter() - start
            if n + 1 < len(self._waiting):
                self._waiting[n + 1].put(part)
            else:
                self._done.put(part.ended(stage))

    def _leave(self, n: int) -> None:
        """Say that one worker of a stage has gone: the end that it saw is for its colleagues too."""
        with self._count:
            self._left[n] -= 1
            last = not self._left[n]
        if last:
            self._close(n)
        elif n:
            self._waiting[n - 1].put(None)

    def _close(self, n: int) -> None:
        """Say that nothing more comes to a stage, or to whoever takes the results."""
        if n < len(self._waiting):
            self._waiting[n].put(None)
        else:
            self._done.put(None)
