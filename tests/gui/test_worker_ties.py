"""The viewer and its worker: what is asked of it and when, and what happens when it dies."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_worker import FakeWorker, labels_of, prediction_of
from waiting import wait_for

from napari_pcs.caches import prediction_cache
from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.gui.ahead import Ahead
from napari_pcs.kept import KeptPredictions
from napari_pcs.labels import Hemisphere
from napari_pcs.models.folders import find_model
from napari_pcs.provenance import Provenance
from napari_pcs.session import Session
from napari_pcs.worker.events import Prefetched
from napari_pcs.worker.messages import HandedCase, Predict, Prefetch, StoredCase, Warm

LENGTHS = (0, 15, 30, 45, 60)


@pytest.fixture(scope="module")
def cases():
    """Five people, alike but for their names."""
    made = []
    for n, length in enumerate(LENGTHS):
        case = phantom(Hemisphere.LEFT, pcs_length_mm=length, spacing_mm=2.5)
        made.append(
            type(case)(case.key._replace(subject=f"p{n}"), case.tissue, case.image, commissures=case.commissures)
        )
    return made


@pytest.fixture
def session(tmp_path, cases):
    session = Session.create(tmp_path / "session")
    for case in cases:
        session.add(case)
    return session


@pytest.fixture
def do(workspace):
    return workspace.panels["Load"].do


def correct(session, case):
    labels = labels_of(case)
    corrected = case.with_labels(LabelRole.CORRECTED, labels, Provenance(manual=True, hemisphere="L"))
    session.write_correction(corrected, np.zeros_like(labels), 1.0)


def open_session(do, state, session):
    do.open_session(session.root)
    wait_for(lambda: len(state.listing.keys) == len(LENGTHS))
    wait_for(lambda: FakeWorker.made and FakeWorker.made[0].asked(Prefetch))
    return FakeWorker.made[0]


def open_case(do, state, session, n):
    key = session.keys()[n]
    do.open_case(key)
    wait_for(lambda: state.job is None and state.case is not None and state.case.key == key)


def last(worker, kind):
    return worker.asked(kind)[-1]


def wait_for_cases(worker, *stems):
    wait_for(lambda: last(worker, Prefetch).cases == stems, 10)


def stem(n):
    return f"sub-p{n}_hemi-L"


def test_nothing_is_started_before_it_is_needed(state, workspace):
    time.sleep(0.3)
    wait_for(lambda: True)
    assert FakeWorker.made == []
    assert state.worker is None


def test_the_worker_is_warm_once_a_session_is_open_and_whenever_model_or_device_change(state, workspace, do, session):
    worker = open_session(do, state, session)
    folder = str(session.models)
    assert last(worker, Warm) == Warm(model="starter", models=(folder,), device="auto")
    workspace.panels["Predict"].device.setCurrentText("cpu")
    wait_for(lambda: last(worker, Warm).device == "cpu")
    wait_for(lambda: last(worker, Prefetch).device == "cpu")
    assert len(worker.asked(Warm)) == 2
    assert FakeWorker.made == [worker]


def test_the_next_three_cases_are_predicted_ahead_those_without_a_correction_first(
    state, do, session, cases, fake_worker
):
    fake_worker.prefetches = False
    correct(session, cases[3])
    worker = open_session(do, state, session)
    wait_for_cases(worker, stem(0), stem(1), stem(2))
    open_case(do, state, session, 2)
    wait_for_cases(worker, stem(2), stem(4), stem(0), stem(1))
    # A corrected case itself waits for no prediction as urgently.
    open_case(do, state, session, 3)
    wait_for_cases(worker, stem(4), stem(0), stem(1), stem(3))
    assert last(worker, Prefetch).tune == state.tuning


def test_a_changed_setting_of_tuning_is_told_and_an_unchanged_one_is_not(state, workspace, do, session):
    worker = open_session(do, state, session)
    time.sleep(0.3)
    wait_for(lambda: True)
    count = len(worker.asked(Prefetch))
    workspace.panels["Tune"].more.set("views", 3)
    wait_for(lambda: len(worker.asked(Prefetch)) == count + 1)
    assert last(worker, Prefetch).tune.views == 3
    do.make_report()
    time.sleep(0.3)
    wait_for(lambda: True)
    assert len(worker.asked(Prefetch)) == count + 1


def test_a_prediction_that_is_there_is_shown_when_its_case_opens(viewer, state, workspace, do, session):
    worker = open_session(do, state, session)
    open_case(do, state, session, 0)
    wait_for(lambda: state.prediction is not None, 10)
    assert state.prediction.kept
    np.testing.assert_array_equal(viewer.layers["labels"].data, labels_of(state.case))
    assert "Predicted ahead by starter" in state.message.text
    request = last(worker, Predict)
    assert request.case == StoredCase(session=str(session.root), case=stem(0))
    wait_for(lambda: LabelRole.PREDICTED in session.load(state.case.key).labels)
    assert threading.main_thread() not in {
        thread for asked, thread in zip(worker.requests, worker.threads, strict=True) if isinstance(asked, Predict)
    }


def test_a_prediction_that_is_kept_is_shown_although_the_worker_is_busy(
    viewer, state, workspace, do, session, fake_worker
):
    fake_worker.prefetches = False
    worker = open_session(do, state, session)
    stored = session.load(session.keys()[1])
    kept = prediction_of(stored, find_model("starter").reference)
    assert KeptPredictions(prediction_cache()).put(stored, kept)
    open_case(do, state, session, 1)
    wait_for(lambda: state.prediction is not None, 10)
    np.testing.assert_array_equal(viewer.layers["labels"].data, kept.labels)
    assert "Predicted ahead by starter" in state.message.text
    assert worker.asked(Predict) == []
    workspace.panels["Predict"].run.click()
    wait_for(lambda: state.job is None)
    assert worker.asked(Predict) == []
    open_case(do, state, session, 2)
    time.sleep(0.5)
    wait_for(lambda: True)
    assert state.prediction is None


def test_it_is_not_shown_over_a_correction_or_over_edits_or_where_nobody_wants_it(
    viewer, state, workspace, do, session, cases
):
    correct(session, cases[0])
    worker = open_session(do, state, session)
    open_case(do, state, session, 0)
    wait_for(lambda: len(last(worker, Prefetch).cases) == 4)
    time.sleep(0.3)
    wait_for(lambda: True)
    assert state.prediction is None

    state.predict_ahead = False
    wait_for_cases(worker)
    assert last(worker, Prefetch).tune is None
    open_case(do, state, session, 1)
    time.sleep(0.3)
    wait_for(lambda: True)
    assert state.prediction is None

    FakeWorker.prefetches = False
    workspace.panels["Predict"].ahead.setChecked(True)
    session.write_labels(
        cases[2].with_labels(LabelRole.PREDICTED, labels_of(cases[2]), Provenance(manual=False, hemisphere="L")),
        LabelRole.PREDICTED,
    )
    open_case(do, state, session, 2)
    layer = viewer.layers["labels"]
    layer.data_setitem((np.array([3]), np.array([3]), np.array([3])), 2)
    edited = layer.data.copy()
    ahead = Ahead.of(viewer)
    ahead._heard(_prefetched(2))
    time.sleep(0.2)
    wait_for(lambda: True)
    assert state.prediction is None
    np.testing.assert_array_equal(layer.data, edited)
    layer.undo()
    ahead._heard(_prefetched(2))
    wait_for(lambda: state.prediction is not None, 10)


def _prefetched(n):
    return Prefetched(case=stem(n), what="prediction")


def test_a_case_that_no_session_has_is_handed_over_in_a_file_that_goes_again(state, workspace, do, settle, cases):
    state.case = cases[1]
    workspace.panels["Predict"].run.click()
    settle()
    assert state.prediction is not None
    (request,) = FakeWorker.made[0].requests
    assert isinstance(request.case, HandedCase)
    assert not Path(request.case.path).exists()


def test_a_worker_that_dies_is_a_sentence_and_the_next_click_works(
    viewer, state, workspace, do, settle, session, fake_worker
):
    fake_worker.prefetches = False
    open_session(do, state, session)
    open_case(do, state, session, 0)
    fake_worker.dies = True
    workspace.panels["Predict"].run.click()
    settle()
    assert state.message.is_error
    assert "ended unexpectedly" in state.message.text
    assert state.prediction is None
    assert state.dirty is False
    fake_worker.dies = False
    workspace.panels["Predict"].run.click()
    settle()
    assert not state.message.is_error
    assert state.prediction is not None


def test_a_worker_that_died_is_warm_again_before_anybody_asks(state, workspace, do, settle, session, fake_worker):
    worker = open_session(do, state, session)
    open_case(do, state, session, 0)
    wait_for(lambda: state.prediction is not None)
    fake_worker.dies = True
    do.predict()
    settle()
    fake_worker.dies = False
    count = len(worker.asked(Prefetch))
    assert worker.pid is None
    wait_for(lambda: len(worker.asked(Prefetch)) == count + 1, 10)


def test_a_worker_that_cannot_be_started_is_a_sentence(state, workspace, do, settle, session, cases, fake_worker):
    fake_worker.refuses = True
    do.open_session(session.root)
    wait_for(lambda: state.message.is_error, 10)
    assert "could not be started" in state.message.text
    state.case = cases[0]
    workspace.panels["Predict"].run.click()
    settle()
    assert "could not be started" in state.message.text
    fake_worker.refuses = False
    workspace.panels["Predict"].run.click()
    settle()
    assert state.prediction is not None


@pytest.mark.parametrize("deaf", [False, True])
def test_a_prediction_is_cancelled_within_two_seconds_even_if_the_worker_does_not_listen(
    state, workspace, do, settle, cases, fake_worker, deaf
):
    fake_worker.step_s, fake_worker.steps, fake_worker.deaf = 1.0, 60, deaf
    state.case = cases[0]
    do.predict()
    job = state.job
    wait_for(lambda: FakeWorker.made and FakeWorker.made[0].asked(Predict))
    begun = time.monotonic()
    workspace.status.cancel.click()
    wait_for(lambda: state.job is None)
    assert time.monotonic() - begun < 2
    assert "cancelled" in state.message.text
    assert job.wait(5)
    assert FakeWorker.made[0].killed == deaf
    assert state.prediction is None


def test_the_worker_ends_with_the_viewer_and_none_is_started_for_it_any_more(viewer, state, workspace, do, session):
    worker = open_session(do, state, session)
    do.leave_worker()
    assert worker.closed.wait(5)
    assert state.worker is None
    state.device = "cpu"
    time.sleep(0.3)
    wait_for(lambda: True)
    assert FakeWorker.made == [worker]
    do.have_worker()
    wait_for(lambda: len(FakeWorker.made) == 2)


def test_the_next_case_is_read_before_it_is_opened_and_read_again_when_its_files_change(
    state, do, session, cases, monkeypatch
):
    read = []
    load = Session.load
    monkeypatch.setattr(Session, "load", lambda self, key: read.append(key.stem) or load(self, key))
    open_session(do, state, session)
    open_case(do, state, session, 0)
    wait_for(lambda: read.count(stem(1)) >= 1, 10)
    wait_for(lambda: state.prediction is not None)
    count = read.count(stem(1))
    open_case(do, state, session, 1)
    assert read.count(stem(1)) == count
    wait_for(lambda: stem(2) in read)
    correct(session, cases[2])
    open_case(do, state, session, 2)
    assert read.count(stem(2)) == 2
    assert LabelRole.CORRECTED in state.case.labels
