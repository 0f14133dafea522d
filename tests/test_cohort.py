"""A whole cohort: every item once, whatever fails, dies or stops."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from napari_pcs import cohort
from napari_pcs.cohort import IN_FLIGHT_PER_SLOT, run_cohort
from napari_pcs.errors import CancelledError, InputError, PcsError
from napari_pcs.files import write_text
from napari_pcs.stop import StopToken

JOBS = 2
DIES = 5
"""The item that kills its worker wherever a test asks for it."""


def result_of(folder, item):
    return folder / f"{item}.txt"


def done_in(folder):
    return partial(_is_done, folder)


def _is_done(folder, item):
    return result_of(folder, item).exists()


def note(folder, line):
    """Append a line in one write, so that lines of several processes do not mix."""
    with (folder / "log").open("a") as log:
        log.write(f"{line}\n")


def noted(folder):
    return (folder / "log").read_text().split() if (folder / "log").exists() else []


def write_one(folder, item):
    note(folder, item)
    time.sleep(0.02)
    write_text(result_of(folder, item), str(item**2))
    return item**2


def fail_some(folder, item):
    if item == 3:
        raise InputError(found="a cat", expected="a hemisphere", advice="Choose another file.", path="x.nii")
    if item == 4:
        raise KeyError(item)
    return write_one(folder, item)


def die_once(folder, item):
    if item == DIES and noted(folder).count(str(DIES)) == 0:
        note(folder, item)
        os.kill(os.getpid(), signal.SIGKILL)
    return write_one(folder, item)


def die_always(folder, item):
    if item == DIES:
        note(folder, item)
        os.kill(os.getpid(), signal.SIGKILL)
    return write_one(folder, item)


def threads_seen(_folder, _item):
    from threadpoolctl import threadpool_info

    assert "numpy" in sys.modules  # its BLAS shows how many threads it took
    return os.environ["NUMBA_NUM_THREADS"], os.environ["OMP_NUM_THREADS"], {p["num_threads"] for p in threadpool_info()}


def stop_at_seven(folder, item):
    time.sleep(0.02 if item < 7 else 30)
    return write_one(folder, item)


def run(folder, task, items, **options):
    return run_cohort(partial(task, folder), items, name=str, done=done_in(folder), **options)


@pytest.mark.parametrize("jobs", [1, JOBS])
def test_a_failing_item_is_reported_in_a_sentence_and_the_others_are_done_once(tmp_path, jobs):
    outcomes = list(run(tmp_path, fail_some, range(20), jobs=jobs))
    assert Counter(o.name for o in outcomes) == Counter(map(str, range(20)))
    failed = {o.name: o.reason for o in outcomes if o.state == "failed"}
    assert failed == {
        "3": "x.nii: found a cat, expected a hemisphere. Choose another file.",
        "4": "KeyError: 4",
    }
    assert all(o.state == "done" and o.result == int(o.name) ** 2 for o in outcomes if o.name not in failed)
    assert Counter(noted(tmp_path)) == Counter(str(i) for i in range(20) if i not in (3, 4))


def test_a_killed_worker_costs_no_item_and_a_restart_skips_what_is_done(tmp_path):
    outcomes = list(run(tmp_path, die_once, range(40), jobs=JOBS))
    assert {o.state for o in outcomes} == {"done"}
    assert Counter(o.name for o in outcomes) == Counter(map(str, range(40)))
    assert {p.name for p in tmp_path.glob("*.txt")} == {f"{i}.txt" for i in range(40)}
    # The item that died was begun twice, every other once.
    assert Counter(noted(tmp_path)) == Counter([*map(str, range(40)), str(DIES)])

    again = list(run(tmp_path, die_once, range(43), jobs=1))
    assert Counter(o.state for o in again) == {"skipped": 40, "done": 3}
    assert len(noted(tmp_path)) == 41 + 3


def test_an_item_that_always_kills_its_worker_fails_after_the_retries_and_alone(tmp_path):
    outcomes = list(run(tmp_path, die_always, range(12), jobs=JOBS, retries=1))
    (failed,) = (o for o in outcomes if o.state == "failed")
    assert failed.name == str(DIES)
    assert "lost 2 times" in failed.reason
    assert noted(tmp_path).count(str(DIES)) == 2
    assert {p.name for p in tmp_path.glob("*.txt")} == {f"{i}.txt" for i in range(12) if i != DIES}


class LosingFuture:
    """A result that went down with its worker after it was told of, and is there a moment later."""

    key = "1"

    def __init__(self):
        self._statuses = iter(["lost", "pending", "finished", "finished", "finished"])

    @property
    def status(self):
        return next(self._statuses)

    def add_done_callback(self, callback):
        callback(self)

    def result(self):
        return "done", 81


def test_a_result_that_went_down_with_its_worker_is_waited_for(monkeypatch):
    monkeypatch.setattr(cohort, "_POLL_SECONDS", 0.0)
    flight = cohort._Flight(
        SimpleNamespace(task=None, done=None, name=str, check=lambda: None),
        SimpleNamespace(submit=lambda *_a, **_k: LosingFuture()),
    )
    flight.send(9)
    landed = [list(flight.landed()) for _ in range(3)]
    assert landed[:2] == [[], []]
    (outcome,) = landed[2]
    assert (outcome.name, outcome.state, outcome.result) == ("9", "done", 81)
    assert flight.is_empty()


def test_items_are_taken_only_as_fast_as_they_are_worked_on(tmp_path):
    taken = []

    def endless():
        i = 0
        while True:
            taken.append(i)
            yield i
            i += 1

    outcomes = run(tmp_path, write_one, endless(), jobs=JOBS)
    for reported in range(1, 30):
        next(outcomes)
        assert len(taken) <= reported + IN_FLIGHT_PER_SLOT * JOBS
    outcomes.close()


def test_workers_keep_to_their_threads_and_this_process_keeps_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    (outcome,) = run(tmp_path, threads_seen, [0], jobs=JOBS)
    assert outcome.result == ("1", "1", {1})
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "NUMBA_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("jobs", [1, JOBS])
def test_stopping_ends_the_run_and_leaves_only_whole_results(tmp_path, jobs):
    stop = StopToken()
    outcomes = run(tmp_path, stop_at_seven, range(100), jobs=jobs, stop=stop)
    for _ in range(5):
        next(outcomes)
    stop.set()
    with pytest.raises(CancelledError, match="run the same again"):
        list(outcomes)
    assert not list(tmp_path.rglob("*.part"))
    whole = {int(p.stem) for p in tmp_path.glob("*.txt")}
    assert whole <= set(range(7))
    assert all(result_of(tmp_path, i).read_text() == str(i**2) for i in whole)


@pytest.fixture
def running_cluster(monkeypatch):
    """Address of a scheduler with one worker, both separate programs as on a real cluster."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([*command, "--no-dashboard"], stderr=subprocess.PIPE, text=True) as scheduler:
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        worker_command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
        with subprocess.Popen([*worker_command, "--no-dashboard", "--no-nanny"], stderr=subprocess.DEVNULL) as worker:
            yield address, scheduler
            worker.terminate()
        scheduler.terminate()


def test_a_running_cluster_does_the_work_and_its_loss_is_a_sentence(tmp_path, running_cluster):
    address, scheduler = running_cluster
    outcomes = list(run(tmp_path, fail_some, range(8), scheduler=address))
    assert Counter(o.state for o in outcomes) == {"done": 6, "failed": 2}
    more = run(tmp_path, write_one, range(500), scheduler=address)
    assert [o.state for o, _ in zip(more, range(3), strict=False)].count("skipped") == 3
    scheduler.kill()
    with pytest.raises(PcsError, match="connection to the dask scheduler was lost"):
        list(more)


@pytest.mark.parametrize("address", ["nonsense", "foo://here:1", "tcp://127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_is_a_sentence(tmp_path, monkeypatch, address):
    monkeypatch.setattr("napari_pcs.cohort.CONNECT_SECONDS", 0.5)
    with pytest.raises(InputError, match="no dask scheduler that answers at"):
        list(run(tmp_path, write_one, range(3), scheduler=address))


@pytest.mark.parametrize("options", [{"jobs": 0}, {"jobs": 2, "scheduler": "tcp://host:1"}])
def test_an_impossible_choice_is_refused_before_anything_is_done(tmp_path, options):
    with pytest.raises(InputError):
        run(tmp_path, write_one, range(3), **options)
