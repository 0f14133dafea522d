"""Labels are measured on a thread of their own, one after the other, and only what is still asked for is told."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication
from waiting import wait_for

from napari_pcs.data.phantom import phantom
from napari_pcs.errors import PcsError
from napari_pcs.gui import measuring
from napari_pcs.gui.measuring import Measuring


@pytest.fixture(scope="module")
def case():
    return phantom(pcs_length_mm=30, spacing_mm=2.5)


@pytest.fixture
def slow(monkeypatch):
    """Measuring takes until it is let go; tells which labels it was given, and on which threads."""

    slow = SimpleNamespace(go=threading.Event(), given=[], threads=set(), fails=False)

    def measure(_case, labels):
        slow.given.append(int(labels[0, 0, 0]))
        slow.threads.add(threading.current_thread())
        assert slow.go.wait(10)
        if slow.fails:
            msg = "The frame is gone."
            raise PcsError(msg)
        return slow.given[-1]

    monkeypatch.setattr(measuring, "measure_case", measure)
    yield slow
    slow.go.set()


@pytest.fixture
def told(qapp):
    return []


@pytest.fixture
def measure(told):
    return Measuring(told.append, lambda sentence: told.append("sentence: " + sentence))


def labels(value):
    return np.full((2, 2, 2), value, np.uint8)


def test_of_labels_that_come_while_others_are_measured_only_the_last_are(case, slow, measure, told):
    for value in (1, 2, 3, 4):
        measure.ask(case, labels(value))
    slow.go.set()
    wait_for(lambda: told, 10)
    assert told == [4]
    assert slow.given == [1, 4]
    assert threading.main_thread() not in slow.threads


def test_nothing_comes_of_what_was_forgotten(case, slow, measure, told):
    measure.ask(case, labels(1))
    measure.ask(case, labels(2))
    measure.forget()
    measure.ask(case, labels(3))
    slow.go.set()
    wait_for(lambda: told, 10)
    for _ in range(20):
        QApplication.processEvents()
    assert told == [3]
    assert 2 not in slow.given


def test_what_fails_is_a_sentence_and_the_next_labels_are_measured(case, slow, measure, told):
    slow.fails = True
    slow.go.set()
    measure.ask(case, labels(1))
    wait_for(lambda: told, 10)
    assert told == ["sentence: The frame is gone."]
    slow.fails = False
    measure.ask(case, labels(2))
    wait_for(lambda: len(told) == 2, 10)
    assert told[1] == 2
