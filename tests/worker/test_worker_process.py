"""The worker as it is: a process with torch, networks, sessions and the cache. Only its networks see little."""

import os
import signal
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import small_box_worker
from networks import CPU, look_through_a_small_box, tiny_model

from napari_pcs.bids import CaseKey
from napari_pcs.caches import prediction_cache
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import CancelledError, PcsError
from napari_pcs.kept import KeptPredictions
from napari_pcs.labels import Hemisphere
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.store import load_segmenter
from napari_pcs.predict import Prediction, Stage, predict
from napari_pcs.session import Session
from napari_pcs.stop import StopToken
from napari_pcs.worker.client import Worker, WorkerError
from napari_pcs.worker.events import Prefetched
from napari_pcs.worker.handover import write_case
from napari_pcs.worker.messages import HandedCase, Predict, Prefetch, StoredCase, Warm

PATIENCE_S = 120
NAMES = ("ada", "bob")


@pytest.fixture(scope="module")
def cases():
    left = Hemisphere.LEFT
    return [replace(phantom(spacing_mm=2.0, seed=n), key=CaseKey(name, "", left)) for n, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def session(tmp_path_factory, cases):
    session = Session.create(tmp_path_factory.mktemp("worker") / "Sitzung 脑")
    for case in cases:
        session.add(replace(case, labels={}))
    tiny_model(session.models)
    return session


@pytest.fixture(scope="module")
def worker(cache_folder):
    with Worker(small_box_worker.COMMAND) as worker:
        yield worker


@pytest.fixture
def expected(session, cases, monkeypatch):
    look_through_a_small_box(monkeypatch)
    model = folder(session)
    return predict(session.load(cases[0].key), load_segmenter(model), model.reference, CPU)


def folder(session):
    return ModelFolder(session.models / "tiny")


def stored(session, case, **options):
    source = StoredCase(session=str(session.root), case=case.key.stem)
    return Predict(case=source, model="tiny", device="cpu", **options)


def run(worker, request, **options):
    return list(worker.run(request, StopToken(), **options))


def same(found, expected):
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=5e-4)
    assert found.class_probabilities == pytest.approx(expected.class_probabilities)
    assert found.measurement == expected.measurement
    assert found.model == expected.model
    assert found.mode == expected.mode


def test_a_prediction_from_the_worker_is_that_of_predict_itself(worker, session, cases, expected):
    *stages, found = run(worker, stored(session, cases[0]))
    assert all(isinstance(stage, Stage) for stage in stages)
    assert stages[-1].name == "postprocess"
    assert isinstance(found, Prediction)
    assert not found.kept
    same(found, expected)
    # Asked again it is there, and labels may be painted on.
    (kept,) = run(worker, stored(session, cases[0]), case=cases[0])
    assert kept.kept
    same(kept, expected)
    kept.labels[0, 0, 0] = 1


def test_a_case_that_is_handed_over_is_predicted_alike(worker, session, cases, expected, tmp_path):
    path = write_case(cases[0], tmp_path / "Übergabe 手")
    request = Predict(case=HandedCase(path=str(path)), model=str(session.models / "tiny"), device="cpu")
    same(run(worker, request)[-1], expected)


def test_a_kept_prediction_that_was_damaged_is_predicted_again(worker, session, cases, expected):
    run(worker, stored(session, cases[0]))
    for path in prediction_cache().folder.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-100])
    found = run(worker, stored(session, cases[0]))[-1]
    assert not found.kept
    same(found, expected)


def test_a_kept_prediction_can_be_asked_for_anew(worker, session, cases):
    run(worker, stored(session, cases[0]))
    assert not run(worker, stored(session, cases[0], again=True))[-1].kept


def test_a_prediction_arrives_even_if_the_cache_cannot_be_written(session, cases, expected, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NAPARI_PCS_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Worker(small_box_worker.COMMAND) as worker:
        same(run(worker, stored(session, cases[0]))[-1], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_cases_are_predicted_in_advance_and_are_there_when_they_open(worker, session, cases):
    there, heard = threading.Event(), []

    def hear(event):
        heard.append(event)
        if len(heard) == len(cases):
            there.set()

    stems = tuple(case.key.stem for case in cases)
    worker.send(Prefetch(session=str(session.root), cases=stems, model="tiny", device="cpu"), hear)
    assert there.wait(PATIENCE_S)
    assert heard == [Prefetched(case=stem, what="prediction") for stem in stems]
    kept = KeptPredictions(prediction_cache())
    assert all(kept.get(case, folder(session).reference) is not None for case in cases)
    assert all(run(worker, stored(session, case))[-1].kept for case in cases)


def test_a_cancelled_prediction_keeps_nothing(worker, session, cases):
    stop = StopToken()
    events = worker.run(stored(session, cases[1]), stop)
    while next(events).name != "network":
        pass
    stop.set()
    with pytest.raises(CancelledError):
        list(events)
    assert not KeptPredictions(prediction_cache()).has(cases[1], folder(session).digest)


def test_a_sentence_comes_back_from_whatever_is_wrong(worker, session, cases):
    with pytest.raises(PcsError, match="found no model of that name"):
        run(worker, stored(session, cases[0]).model_copy(update={"model": "nobody"}))
    with pytest.raises(PcsError, match="sub-nobody"):
        run(worker, Predict(case=StoredCase(session=str(session.root), case="sub-nobody_hemi-L"), model="tiny"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_killed_in_the_middle_it_is_a_sentence_and_the_next_prediction_comes_from_a_new_process(
    worker, session, cases, expected
):
    run(worker, Warm(model="tiny", models=(str(session.models),), device="cpu"))
    events = worker.run(stored(session, cases[0]), StopToken())
    while next(events).name != "network":
        pass
    before = worker.pid
    os.kill(before, signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL"):
        list(events)
    same(run(worker, stored(session, cases[0]))[-1], expected)
    assert worker.pid != before


def test_started_as_it_is_it_gets_ready_wherever_it_is_started(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit('a file of the user was taken for a module')")
    monkeypatch.chdir(tmp_path)
    with Worker() as worker:
        assert worker.wait_until_ready(PATIENCE_S)
        assert worker.pid is not None
