import threading
import time

import pytest
from qtpy.QtWidgets import QApplication

from napari_pcs.errors import InputError
from napari_pcs.gui.jobs import Job


class Ear:
    """Hears a job, and on which thread."""

    def __init__(self, job):
        self.heard = []
        self.threads = set()
        for name in ("event", "done", "failed"):
            getattr(job, name).connect(lambda content, name=name: self.note(name, content))
        job.cancelled.connect(lambda: self.note("cancelled", None))

    def note(self, name, content):
        self.heard.append((name, content))
        self.threads.add(threading.current_thread())

    def wait(self, seconds=10):
        end = time.monotonic() + seconds
        while not any(name in ("done", "failed", "cancelled") for name, _ in self.heard):
            assert time.monotonic() < end
            QApplication.processEvents()
            time.sleep(0.005)
        return self.heard


def run(qapp, work):
    job = Job("Working", work)
    ear = Ear(job)
    job.start()
    ear.wait()
    assert job.wait(1)
    return ear


def test_events_arrive_in_order_on_the_gui_thread(qapp):
    worked_on = []

    def work(_stop):
        worked_on.append(threading.current_thread())
        yield from (1, 2, 3)

    ear = run(qapp, work)
    assert ear.heard == [("event", 1), ("event", 2), ("event", 3), ("done", 3)]
    assert ear.threads == {threading.main_thread()}
    assert worked_on[0] is not threading.main_thread()


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), ValueError("odd"), KeyError("k"), MemoryError()])
def test_an_unexpected_error_becomes_a_sentence_whatever_its_type(qapp, error):
    def work(_stop):
        yield 1
        raise error

    name, sentence = run(qapp, work).heard[-1]
    assert name == "failed"
    assert type(error).__name__ in sentence
    assert sentence.startswith("Working failed")


def test_an_expected_error_is_shown_as_it_stands(qapp):
    error = InputError(found="a cat", expected="a hemisphere", advice="Choose another file.", path="x.nii")

    def work(_stop):
        raise error
        yield

    assert run(qapp, work).heard == [("failed", "x.nii: found a cat, expected a hemisphere. Choose another file.")]


def test_cancelling_stops_the_work_and_lets_it_clean_up(qapp):
    cleaned = threading.Event()

    def work(stop):
        try:
            while True:
                stop.check()
                time.sleep(0.01)
                yield 0
        finally:
            cleaned.set()

    job = Job("Working", work)
    ear = Ear(job)
    job.start()
    time.sleep(0.05)
    start = time.monotonic()
    job.cancel()
    assert ear.wait()[-1] == ("cancelled", None)
    assert time.monotonic() - start < 2
    assert cleaned.is_set()


def test_work_that_cannot_be_interrupted_is_abandoned_within_two_seconds(qapp):
    release = threading.Event()

    def work(_stop):
        release.wait(20)
        yield "too late"

    job = Job("Working", work, may_be_abandoned=True)
    ear = Ear(job)
    job.start()
    start = time.monotonic()
    job.cancel()
    assert ear.wait() == [("cancelled", None)]
    assert time.monotonic() - start < 2
    release.set()
    assert job.wait(5)
    QApplication.processEvents()
    assert ear.heard == [("cancelled", None)]
