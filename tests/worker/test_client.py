"""The client and a real process, which does fake work."""

import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from fake_work import COMMAND, predict, prefetch, tune, warm

from napari_pcs.errors import CancelledError, PcsError
from napari_pcs.stop import StopToken
from napari_pcs.training.events import Preparing
from napari_pcs.worker.channel import encode
from napari_pcs.worker.client import Worker, WorkerError
from napari_pcs.worker.events import Prefetched

PATIENCE_S = 60
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups are POSIX's")


@pytest.fixture
def worker():
    with Worker(COMMAND) as worker:
        yield worker


def sentences(worker, request, stop=None, **options):
    return [event.sentence for event in worker.run(request, stop or StopToken(), **options)]


def begin(worker, request, stop=None, **options):
    """Start a request and return what it will tell, after its first event."""
    events = worker.run(request, stop or StopToken(), **options)
    next(events)
    return events


def test_events_come_back_as_they_were_told(worker):
    assert list(worker.run(predict("say:something"), StopToken())) == [Preparing(sentence="something")]


def test_the_process_is_started_by_the_first_request():
    worker = Worker(COMMAND)
    assert worker.pid is None
    with worker:
        assert sentences(worker, predict("say:x")) == ["x"]
        first = worker.pid
        assert sentences(worker, predict("say:y")) == ["y"]
        assert worker.pid == first


def test_it_gives_way_and_has_a_group_of_its_own(worker):
    assert sentences(worker, predict("say:x")) == ["x"]
    process = psutil.Process(worker.pid)
    if sys.platform == "win32":
        assert process.nice() == psutil.BELOW_NORMAL_PRIORITY_CLASS
    else:
        assert process.nice() == min(psutil.Process().nice() + 5, 19)
        assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)


def test_a_failure_is_raised_with_its_sentence_and_the_traceback_goes_to_the_log(worker, caplog):
    with pytest.raises(PcsError, match=r"^found a cat, expected a brain\.$"):
        list(worker.run(predict("own"), StopToken()))
    with pytest.raises(PcsError, match=r"^Predicting failed unexpectedly \(ValueError: odd\)"):
        list(worker.run(predict("odd"), StopToken()))
    assert "Traceback" in caplog.text
    assert sentences(worker, predict("say:alive")) == ["alive"]


def test_after_running_out_of_memory_the_same_process_serves(worker):
    with pytest.raises(PcsError, match="ran out of memory"):
        list(worker.run(tune("memory"), StopToken()))
    before = worker.pid
    assert sentences(worker, predict("say:alive")) == ["alive"]
    assert worker.pid == before


def test_what_a_library_prints_or_reads_does_not_reach_the_protocol(worker):
    assert sentences(worker, predict("noise")) == ["read ''"]


def test_an_event_that_nobody_knows_is_passed_over(worker, caplog):
    assert sentences(worker, predict("unheard")) == ["heard"]
    assert "told of Unheard" in caplog.text


def test_a_cancelled_request_raises_and_the_process_stays(worker):
    stop = StopToken()
    events = begin(worker, predict("hold:long"), stop)
    before = worker.pid
    stop.set()
    with pytest.raises(CancelledError):
        next(events)
    assert sentences(worker, predict("say:alive")) == ["alive"]
    assert worker.pid == before


def test_what_follows_a_cancellation_is_still_told(worker):
    stop = StopToken()
    events = begin(worker, tune("save"), stop)
    stop.set()
    assert [event.sentence for event in events] == ["saved"]


def test_what_does_not_stop_is_killed_and_the_next_request_is_served(worker):
    stop = StopToken()
    events = begin(worker, predict("stubborn"), stop, patience_s=0.2)
    before = worker.pid
    stop.set()
    with pytest.raises(CancelledError, match="its process was ended"):
        next(events)
    assert sentences(worker, predict("say:alive")) == ["alive"]
    assert worker.pid != before


def test_nothing_is_started_for_what_was_cancelled_before_it_began():
    stop = StopToken()
    stop.set()
    worker = Worker(COMMAND)
    with pytest.raises(CancelledError):
        next(worker.run(predict("say:x"), stop))
    assert worker.pid is None


def test_what_nobody_listens_to_any_more_is_cancelled(worker):
    begin(worker, predict("hold:forever")).close()
    assert sentences(worker, predict("say:next")) == ["next"]


@POSIX
def test_a_killed_process_is_a_sentence_and_the_next_request_starts_another(worker, caplog):
    events = begin(worker, tune("hold:long"))
    before = worker.pid
    os.kill(before, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"SIGKILL; .*ran out of memory.*labels are untouched.*starts anew"):
        next(events)
    assert "The worker ended (SIGKILL" in caplog.text
    assert sentences(worker, predict("say:alive")) == ["alive"]
    assert worker.pid != before


def test_a_process_that_ends_by_itself_is_a_sentence_to_all_who_wait(worker):
    waiting = begin(worker, predict("hold:until-it-dies"))
    with ThreadPoolExecutor() as threads:
        heard = threading.Event()

        def wait_for_more():
            heard.set()
            return list(waiting)

        other = threads.submit(wait_for_more)
        assert heard.wait(PATIENCE_S)
        psutil.Process(worker.pid).terminate()
        with pytest.raises(WorkerError, match="ended unexpectedly"):
            other.result(PATIENCE_S)
    with pytest.raises(WorkerError, match="exit code 3"):
        list(worker.run(predict("die:3"), StopToken()))
    assert sentences(worker, predict("say:alive")) == ["alive"]


def test_a_gpu_that_failed_is_said(worker):
    with pytest.raises(WorkerError, match="GPU failed"):
        list(worker.run(predict("die:75"), StopToken()))


def test_what_was_loaded_last_is_loaded_again_by_the_next_process(worker, tmp_path):
    notes = tmp_path / "notes"
    worker.send(warm(f"note:{notes}"))
    assert sentences(worker, predict("say:x")) == ["x"]
    with pytest.raises(WorkerError):
        list(worker.run(predict("die:1"), StopToken()))
    # Prefetching comes after loading, so that loading is over when it is.
    assert list(worker.run(prefetch(), StopToken())) == []
    assert notes.read_text() == "note\nnote\n"


def test_a_command_that_cannot_be_started_is_a_sentence(tmp_path):
    with pytest.raises(WorkerError, match="could not be started"):
        Worker((str(tmp_path / "no-such-program"),)).start()


def test_a_command_that_fails_at_once_is_a_sentence_with_its_last_line():
    failing = (sys.executable, "-c", "import sys; sys.exit('no torch here')")
    with Worker(failing) as worker, pytest.raises(WorkerError, match="exit code 1: no torch here"):
        list(worker.run(predict("say:x"), StopToken()))


def test_what_is_not_a_reply_is_passed_over(caplog):
    code = """
import sys
line = sys.stdin.readline()
print("Hello!")
print("[1]")
print('{"id": 1, "kind": "done"}', flush=True)
sys.stdin.read()
"""
    with Worker((sys.executable, "-c", code)) as worker:
        assert list(worker.run(predict("x"), StopToken())) == []
    assert "passed over" in caplog.text


def test_threads_share_a_process_and_each_hears_its_own(worker):
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: sentences(worker, predict(f"say:{n}")), range(24)))
    assert found == [[str(n)] for n in range(24)]


def test_two_clients_have_a_process_each(worker):
    with Worker(COMMAND) as other:
        events = begin(worker, predict("hold:busy"))
        assert sentences(other, predict("say:free")) == ["free"]
        assert other.pid != worker.pid
        events.close()


def test_events_of_what_nobody_waits_for_are_heard(worker):
    heard, there = [], threading.Event()

    def hear(event):
        heard.append(event)
        if isinstance(event, Prefetched):
            there.set()
        msg = "a listener that fails must not deafen the others"
        raise RuntimeError(msg)

    worker.send(prefetch("open"), hear)
    assert there.wait(PATIENCE_S)
    assert heard == [Preparing(sentence="open"), Prefetched(case="open", what="prediction")]
    assert sentences(worker, predict("say:alive")) == ["alive"]


def test_what_goes_wrong_with_what_nobody_waits_for_is_logged(worker, caplog):
    worker.send(warm("own"))
    assert list(worker.run(prefetch(), StopToken())) == []
    assert "Warm: found a cat, expected a brain." in caplog.text


def test_closing_lets_it_save_and_tells_who_waits(worker):
    events = begin(worker, tune("save"))
    process = psutil.Process(worker.pid)
    worker.close(PATIENCE_S)
    assert [event.sentence for event in events] == ["saved"]
    assert not process.is_running()
    assert worker.pid is None


def test_closing_kills_what_does_not_end(worker):
    events = begin(worker, predict("stubborn"))
    process = psutil.Process(worker.pid)
    worker.close(0.2)
    with pytest.raises(WorkerError, match="was ended before this was done"):
        next(events)
    assert not process.is_running()


def test_a_client_that_is_forgotten_takes_its_process_along():
    worker = Worker(COMMAND)
    assert sentences(worker, predict("say:x")) == ["x"]
    process = psutil.Process(worker.pid)
    del worker
    gc.collect()
    assert not process.is_running()


# How it ends when nobody has told it to


def end_of(code, *arguments, **options):
    """Run a program that starts a worker and ends; return when both have closed their output."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=True, **options)


def test_it_ends_with_an_interpreter_that_has_not_closed_it():
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from fake_work import COMMAND, predict
from napari_pcs.stop import StopToken
from napari_pcs.worker.client import Worker
worker = Worker(COMMAND)
print(next(worker.run(predict("hold:long"), StopToken())).sentence, worker.pid)
"""
    said, pid = end_of(code, str(Path(__file__).parent)).stdout.split()
    assert said == "long"
    assert not psutil.pid_exists(int(pid))


def test_it_ends_when_its_input_ends():
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(encode(tune("hold:long", 1)))
    process.stdin.flush()
    while b"event" not in process.stdout.readline():
        pass
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 0
    process.stdout.close()


@POSIX
def test_it_ends_with_its_parent_even_if_another_process_holds_its_input():
    read, write = os.pipe()
    os.write(write, encode(tune("hold:long", 1)))
    code = """
import os, subprocess, sys
worker = subprocess.Popen(sys.argv[2:], stdin=int(sys.argv[1]), stdout=subprocess.PIPE)
while b"event" not in worker.stdout.readline():
    pass
os._exit(0)
"""
    # The worker writes what goes wrong to the same pipe, which is at its end when both are gone.
    end_of(code, str(read), *COMMAND, pass_fds=(read,), stderr=subprocess.STDOUT)
    os.close(read)
    os.close(write)


@POSIX
def test_it_tells_a_person_at_a_terminal_what_it_is_for():
    import pty

    ours, theirs = pty.openpty()
    done = subprocess.run(COMMAND, stdin=theirs, capture_output=True, text=True, timeout=PATIENCE_S)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "found a terminal, expected requests" in done.stderr
