"""One task over many items, in parallel: a failing item stops no other, and a restart skips what is done.

The work is done by dask.distributed, in worker processes on this machine or on a cluster that runs
already. Whether an item is done is read from what the task left behind, not from a list kept here,
so a run can be killed at any time and started again. A task must therefore write atomically (see
`napari_pcs.files`).
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from napari_pcs.errors import CancelledError, InputError, PcsError
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from distributed import Client, Future

__all__ = ["Outcome", "run_cohort"]

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT_PER_SLOT = 4
"""Items handed over at a time for each that the cluster can work on at once; all others cost no memory."""
CONNECT_SECONDS = 10
_POLL_SECONDS, _COUNT_SECONDS = 0.2, 1.0
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_SETTINGS = {
    # Lost workers are counted here, so that they mean the same on every cluster.
    "distributed.scheduler.allowed-failures": 0,
    # Nothing waits inside a worker: losing one concerns no item but the one that it was working on.
    "distributed.scheduler.worker-saturation": 1.0,
    # These would be set in this process too, and stay set.
    "distributed.nanny.pre-spawn-environ": {},
}
_CANCELLED = "Cancelled. What is done stays done; run the same again to do the rest."
_DONE_SINCE = "Done, but by an attempt whose worker was lost before it could answer, or by another run."


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What became of one item.

    Attributes
    ----------
    name
        Of the item.
    state
        "done" during this run, "skipped" because it was done before, or "failed".
    result
        What the task returned. None unless done, and where the answer was lost with its worker.
    reason
        A sentence for the user, wherever there is no result.
    """

    name: str
    state: Literal["done", "skipped", "failed"]
    result: R | None = None
    reason: str = ""


def run_cohort(
    task: Callable[[T], R],
    items: Iterable[T],
    *,
    name: Callable[[T], str],
    done: Callable[[T], bool],
    jobs: int | None = None,
    scheduler: str | None = None,
    retries: int = 2,
    stop: StopToken | None = None,
    threads_per_task: int = 1,
) -> Iterator[Outcome[R]]:
    """Run a task on every item that is not done; yield each outcome once, in the order of completion.

    Parameters
    ----------
    task
        Does one item, writes its result atomically and returns something small. Workers must be able
        to import or unpickle it, `done` and the items.
    items
        Taken only as fast as they are worked on.
    name
        Name of an item for the report.
    done
        Whether the result of an item is there: asked before the item is sent, and again by the worker.
    jobs
        Worker processes on this machine; by default as many as it has processors. With 1 everything
        runs in this process, without dask.
    scheduler
        Address of a running dask cluster to use instead. Its workers must see the same files.
    retries
        How often an item is tried again whose worker was lost. One that fails is not tried again.
    stop
        Set to end early. What our own workers are doing is given up; a cluster's workers finish it.
    threads_per_task
        Threads that numerical libraries may use in each of our own worker processes.

    Raises
    ------
    InputError
        If both `jobs` and `scheduler` are given, or there is less than one job.
    PcsError
        If the scheduler cannot be reached, or is lost.
    CancelledError
        Soon after `stop` is set.
    """
    if jobs is not None and scheduler is not None:
        raise InputError(found="both a number of jobs and a scheduler", expected="one of them")
    if jobs is not None and jobs < 1:
        raise InputError(found=f"{jobs} jobs", expected="1 or more")
    run = _Run(task, name, done, retries, stop or StopToken())
    if jobs == 1:
        return run.here(items)
    return run.on(_running_cluster(scheduler) if scheduler else _own_cluster(jobs, threads_per_task), items)


class _Answer(NamedTuple):
    """What a worker sends back: no exception, because some cannot be sent."""

    state: Literal["done", "failed"]
    result: Any = None
    reason: str = ""


def _attempt(task: Callable[[T], R], done: Callable[[T], bool], item: T) -> _Answer:
    try:
        if done(item):
            return _Answer("done", reason=_DONE_SINCE)
        return _Answer("done", task(item))
    except Exception as error:  # noqa: BLE001  one item's trouble is not the others'
        return _Answer("failed", reason=_sentence(error))


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, PcsError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class _Run(Generic[T, R]):
    """What stays the same from item to item."""

    task: Callable[[T], R]
    name: Callable[[T], str]
    done: Callable[[T], bool]
    retries: int
    stop: StopToken

    def here(self, items: Iterable[T]) -> Iterator[Outcome[R]]:
        for item in items:
            self.check()
            outcome = self.known(item)
            if outcome is None:
                answer = _attempt(self.task, self.done, item)
                if answer.state == "failed":
                    self.check()  # a task that heeds the same token fails by being stopped
                outcome = Outcome(self.name(item), *answer)
            yield outcome

    def on(self, cluster: AbstractContextManager[Client], items: Iterable[T]) -> Iterator[Outcome[R]]:
        with cluster as client, _Flight(self, client) as flight:
            for item in items:
                self.check()
                if outcome := self.known(item):
                    yield outcome
                    continue
                flight.send(item)
                while flight.is_full():
                    yield from flight.landed()
            while not flight.is_empty():
                yield from flight.landed()

    def known(self, item: T) -> Outcome[R] | None:
        """Return the outcome of an item that need not be sent."""
        try:
            return Outcome(self.name(item), "skipped", reason="Done before.") if self.done(item) else None
        except Exception as error:  # noqa: BLE001  one item's trouble is not the others'
            return Outcome(self.name(item), "failed", reason=_sentence(error))

    def check(self) -> None:
        if self.stop.is_set():
            raise CancelledError(_CANCELLED)


class _Flight(Generic[T, R]):
    """The items that a cluster has at present."""

    def __init__(self, run: _Run[T, R], client: Client) -> None:
        self._run, self._client = run, client
        self._sent: dict[Future, tuple[T, int]] = {}
        self._ended: SimpleQueue[Future] = SimpleQueue()
        self._slots, self._counted_at = 1, 0.0

    def __enter__(self) -> _Flight[T, R]:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._sent and self._client.status == "running":
            self._client.cancel(list(self._sent))

    def send(self, item: T, losses: int = 0) -> None:
        future = self._client.submit(_attempt, self._run.task, self._run.done, item, pure=False)
        self._sent[future] = item, losses
        future.add_done_callback(self._ended.put)

    def is_empty(self) -> bool:
        return not self._sent

    def is_full(self) -> bool:
        now = time.monotonic()
        if now - self._counted_at > _COUNT_SECONDS:
            # A cluster may grow and shrink while it works, and may have no worker yet.
            self._slots, self._counted_at = max(1, sum(self._client.nthreads().values())), now
        return len(self._sent) >= IN_FLIGHT_PER_SLOT * self._slots

    def landed(self) -> Iterator[Outcome[R]]:
        """Wait a moment for one item and yield its outcome."""
        self._run.check()
        try:
            future = self._ended.get(timeout=_POLL_SECONDS)
        except Empty:
            return
        if future.status in {"lost", "pending"}:
            # Its result went down with a worker before it was fetched; dask does it again.
            time.sleep(_POLL_SECONDS)
            future.add_done_callback(self._ended.put)
            return
        if future.status not in {"finished", "error"}:
            msg = "The connection to the dask scheduler was lost. What is done stays done; run the same again."
            raise PcsError(msg)
        item, losses = self._sent.pop(future)
        answer = self._answer(future, losses)
        if answer is None:
            self.send(item, losses + 1)
        else:
            yield Outcome(self._run.name(item), *answer)

    def _answer(self, future: Future, losses: int) -> _Answer | None:
        """Return what became of an item, None if it is worth another attempt."""
        from distributed.scheduler import KilledWorker

        if future.status == "finished":
            return _Answer(*future.result())
        error = future.exception()
        if not isinstance(error, KilledWorker):
            return _Answer("failed", reason=_sentence(error))
        if losses < self._run.retries:
            return None
        times = f"{losses + 1} times" if losses else "once"
        return _Answer(
            "failed", reason=f"Its worker was lost {times}, as when memory runs out. Try it with fewer jobs, or alone."
        )


@contextmanager
def _own_cluster(jobs: int | None, threads: int) -> Iterator[Client]:
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    with (
        _threads_limited(threads),
        dask.config.set(_SETTINGS),
        LocalCluster(
            n_workers=jobs or max(1, CPU_COUNT // threads),
            threads_per_worker=1,
            processes=True,
            # Tasks need unequal amounts: an equal share each would kill what the machine has room for.
            memory_limit=0,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        # Not the default: napari computes lazy layers with dask, and must go on doing so by itself.
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def _running_cluster(address: str) -> Iterator[Client]:
    from distributed import Client
    from distributed.comm import get_address_host_port
    from distributed.utils import silence_logging_cmgr

    try:
        get_address_host_port(address)
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, MemoryError) as error:  # MemoryError: what answered is not dask
        raise InputError(
            found=f"no dask scheduler that answers at {address}",
            expected="the address of a running one, such as tcp://host:8786",
            advice="Start it with `dask scheduler`, check the address, or use --jobs to work on this machine.",
        ) from error
    with silence_logging_cmgr(logging.CRITICAL), client:
        yield client


@contextmanager
def _threads_limited(threads: int) -> Iterator[None]:
    """Let processes that start meanwhile use so many threads: libraries read these variables when loaded."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
