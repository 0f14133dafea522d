"""Whole held-out hemispheres, labelled by what is at hand: only who is asked, and what is made of it."""

from dataclasses import replace

import numpy as np
import pytest
from networks import CPU, tiny_model, tiny_network
from quick_prediction import quick_prediction

from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import CancelledError
from napari_pcs.kept import KeptPredictions
from napari_pcs.labels import Hemisphere, Label
from napari_pcs.stop import StopToken
from napari_pcs.training import judging
from napari_pcs.training.judging import Judge
from napari_pcs.training.labelled import Labelled


@pytest.fixture(scope="module")
def cases():
    return [Labelled.of(phantom(side, pcs_length_mm=30)) for side in (Hemisphere.LEFT, Hemisphere.RIGHT)]


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path, "base")


@pytest.fixture
def asked(monkeypatch):
    """Names of the cases that were predicted, and by which network; a prediction is the labels' front half."""
    found = []

    def predict(case, network, model, _device, *, stop):
        stop.check()
        found.append((case.key.stem, network))
        labels = front_half(case.truth[1].data)
        probabilities = np.stack([labels >= 1, labels == Label.PCS], axis=-1).astype(np.float32)
        return replace(quick_prediction(case, model), labels=labels, probabilities=probabilities)

    monkeypatch.setattr(judging, "predict", predict)
    return found


@pytest.fixture
def judge(model, tmp_path):
    """Build a judge; it may keep predictions, and loads what is given, or nothing."""

    def build(*, keeps=True, loads=None, stop=None):
        kept = KeptPredictions(Bundles(tmp_path / "predictions", 2**30)) if keeps else None
        load = (lambda _model: loads) if loads is not None else pytest.fail
        return Judge(model, CPU, stop or StopToken(), kept, load)

    return build


def front_half(labels):
    found = labels.copy()
    found[:, : labels.shape[1] // 2] = 0
    return found


def names(cases):
    return [case.name for case in cases]


def test_reports_are_of_the_prediction_against_the_label_that_a_person_gave(cases, judge, asked):
    network = tiny_network()
    reports = judge(keeps=False).after(cases, network)
    assert asked == [(name, network) for name in names(cases)]
    for case, report in zip(cases, reports, strict=True):
        truth = case.load().truth[1].data
        expected = 2 * (front_half(truth) > 0).sum() / ((front_half(truth) > 0).sum() + (truth > 0).sum())
        assert 0.1 < expected < 0.9
        assert report.labels["skeleton"].dice == pytest.approx(expected)


def test_what_the_model_says_is_found_out_once_and_then_nothing_is_loaded(cases, judge, asked):
    network = tiny_network()
    first = judge(loads=network).before(cases)
    assert names(cases) == [name for name, _ in asked]
    assert judge().before(cases) == first
    assert len(asked) == len(cases)


def test_without_a_place_to_keep_them_predictions_are_made_again(cases, judge, asked):
    network = tiny_network()
    reports = [judge(keeps=False, loads=network).before(cases) for _ in range(2)]
    assert reports[0] == reports[1]
    assert len(asked) == 2 * len(cases)


def test_what_the_tuned_network_says_is_not_taken_for_the_models(cases, judge, asked):
    judge().after(cases, tiny_network())
    judge(loads=tiny_network(1)).before(cases)
    assert len(asked) == 2 * len(cases)


def test_a_stop_ends_it(cases, judge, asked):
    stop = StopToken()
    stop.set()
    for work in (lambda j: j.after(cases, tiny_network()), lambda j: j.before(cases)):
        with pytest.raises(CancelledError):
            work(judge(loads=tiny_network(), stop=stop))
    assert not asked
