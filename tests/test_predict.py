import threading
import time
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from builders import predicted_by
from networks import CPU, look_through_a_small_box, tiny_network

from napari_pcs.anatomy.grid import NetworkGrid
from napari_pcs.anatomy.length import measure_case
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import CancelledError, InputError
from napari_pcs.inference.labelling import labels_from
from napari_pcs.inference.run import pad_to_multiple
from napari_pcs.labels import Hemisphere, PcsClass
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.predict import Prediction, Stage, network_input, predict, predict_steps
from napari_pcs.provenance import ModelReference
from napari_pcs.stop import StopToken
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
MODEL = ModelReference(name="tiny", digest="ab12")


@pytest.fixture(scope="module")
def network():
    return tiny_network()


@pytest.fixture(scope="module")
def cases():
    """Left and right phantom of 1 mm, in a frame of air that is not the same on all sides."""
    pads = {L: ((2, 5), (1, 4), (3, 0)), R: ((5, 2), (1, 4), (3, 0))}
    return {side: padded(phantom(side), pads[side]) for side in (L, R)}


@pytest.fixture(scope="module")
def predictions(cases, network):
    """Whole hemispheres, predicted once."""
    return {side: predict(case, network, MODEL, CPU) for side, case in cases.items()}


def padded(case, width):
    affine = case.tissue.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [before for before, _ in width]
    tissue = Volume.from_array(np.pad(case.tissue.data, width), affine)
    return Case(case.key, tissue, tissue, commissures=case.commissures)


# A whole prediction


@pytest.mark.parametrize("side", [L, R])
def test_labels_and_probabilities_lie_on_the_cases_own_grid(cases, predictions, side):
    found, shape = predictions[side], cases[side].tissue.shape
    assert found.labels.shape == shape
    assert found.labels.dtype == np.uint8
    assert set(np.unique(found.labels)) == {0, 1, 2}
    assert found.probabilities.shape == (*shape, 2)
    assert found.probabilities.min() >= 0
    assert found.probabilities.max() <= 1
    skeleton, pcs = np.moveaxis(found.probabilities, -1, 0)
    assert (pcs <= skeleton + 1e-6).all()
    # Nothing is said of what lies outside the hemisphere's box.
    spans = [np.flatnonzero((cases[side].tissue.data > 0).any(axis=(1, 2)))[[0, -1]]]
    outside = np.r_[0 : spans[0][0] - 1, spans[0][1] + 2 : shape[0]]
    assert len(outside) > 0
    assert not found.probabilities[outside].any()


def test_the_right_phantom_gets_the_exact_mirror_image_of_the_left_ones_labels(predictions):
    left, right = predictions[L], predictions[R]
    np.testing.assert_array_equal(left.labels[::-1], right.labels)
    np.testing.assert_array_equal(left.probabilities[::-1], right.probabilities)
    assert left.measurement.length_mm == pytest.approx(right.measurement.length_mm, rel=0.02)
    assert left.class_probabilities == right.class_probabilities
    # And it is no image of itself: the law would not hold of labels that were left unmirrored.
    assert np.count_nonzero(left.labels != right.labels) > 1000


def test_the_probabilities_are_those_of_the_network_on_its_own_input(cases, network, predictions):
    case = cases[R]
    prepared = network_input(case, position=True)
    with torch.inference_mode():
        logits = network(pad_to_multiple(torch.from_numpy(prepared.image)[None])).logits
    x, y, z = prepared.image.shape[1:]
    expected = channel_probabilities(logits)[0, :, :x, :y, :z].numpy()
    found = predictions[R].probabilities
    for channel in (0, 1):
        # Whole voxels at 1 mm: what was pushed back can be pulled again.
        np.testing.assert_allclose(prepared.grid.pull(found[..., channel]), expected[channel], atol=1e-4)


def test_labels_and_length_follow_from_the_probabilities(cases, predictions):
    for side, found in predictions.items():
        # Voxels of 1 mm: a piece of PCS needs 20 of them.
        np.testing.assert_array_equal(found.labels, labels_from(found.probabilities, min_voxels=20))
        assert found.measurement == measure_case(cases[side], found.labels)
        assert found.measurement.length_mm > 0


def test_where_nobody_knows_the_commissures_there_are_labels_and_no_measurement(monkeypatch, cases, network):
    look_through_a_small_box(monkeypatch)
    one = predict(cases[L], network, MODEL, CPU)
    other = predict(replace(cases[L], commissures=None), network, MODEL, CPU)
    assert one.measurement is not None
    assert other.measurement is None
    np.testing.assert_array_equal(one.labels, other.labels)
    assert other.class_probabilities == one.class_probabilities


def test_class_probabilities_are_a_distribution_over_the_measured_classes(predictions):
    found = predictions[L].class_probabilities
    assert list(found) == list(PcsClass.measured())
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert min(found.values()) > 0


def test_the_uncertainty_is_the_mean_entropy_where_pcs_is_thinkable(predictions):
    skeleton, pcs = np.moveaxis(predictions[L].probabilities.astype(np.float64), -1, 0)
    p = pcs[pcs >= 0.05] / skeleton[pcs >= 0.05]
    expected = (-p * np.log2(p) - (1 - p) * np.log2(1 - p)).mean()
    assert predictions[L].uncertainty == pytest.approx(expected, abs=1e-3)
    assert 0 < predictions[L].uncertainty <= 1


def test_timings_add_up_and_memory_and_mode_are_told(predictions):
    for found in predictions.values():
        timings = dict(found.timings_s)
        total = timings.pop("total")
        assert set(timings) == {"prepare", "network", "postprocess"}
        assert sum(timings.values()) == pytest.approx(total, abs=1e-6)
        assert min(timings.values()) > 0
        assert found.peak_memory_mb > 200
        assert (found.device, found.mode, found.model) == ("cpu", "whole", MODEL)
        assert found.route == f"one pass, {found.engine}"


def test_a_prediction_joins_its_case_with_its_origin(cases, predictions):
    case = predictions[R].add_to(cases[R])
    stored = case.labels[LabelRole.PREDICTED]
    np.testing.assert_array_equal(stored.data, predictions[R].labels)
    assert (stored.provenance.manual, stored.provenance.hemisphere, stored.provenance.model) == (False, "R", MODEL)
    assert case.truth is None


def test_stages_come_in_order_before_the_prediction(monkeypatch, cases, network):
    look_through_a_small_box(monkeypatch)
    *stages, last = predict_steps(cases[L], network, MODEL, CPU)
    assert [s.name for s in stages if isinstance(s, Stage)] == ["prepare", "network", "postprocess"]
    assert isinstance(last, Prediction)
    assert "tiny on cpu" in stages[1].sentence


def test_the_same_case_gives_the_same_prediction_again_whatever_it_is_called(monkeypatch, cases, network):
    look_through_a_small_box(monkeypatch)
    one = predict(cases[L], network, MODEL, CPU)
    other = replace(cases[L], key=CaseKey("other", "2", L)).with_labels(LabelRole.PREDICTED, one.labels, predicted_by())
    two = predict(other, network, MODEL, CPU)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)
    assert one.measurement == two.measurement


# Cancelling


def test_a_pass_that_is_cancelled_from_another_thread_ends_within_two_seconds(cases, network):
    stop, when = StopToken(), []

    def cancel():
        when.append(time.perf_counter())
        stop.set()

    steps = predict_steps(cases[L], network, MODEL, CPU, stop=stop)
    assert next(steps).name == "prepare"
    assert next(steps).name == "network"
    timer = threading.Timer(0.5, cancel)
    timer.start()
    with pytest.raises(CancelledError):
        next(steps)
    assert time.perf_counter() - when[0] < 2
    timer.join()


@pytest.mark.parametrize("stage", ["prepare", "network", "postprocess"])
def test_it_can_be_cancelled_at_every_stage(monkeypatch, cases, network, stage):
    look_through_a_small_box(monkeypatch)
    stop = StopToken()
    reached = []

    def consume():
        for event in predict_steps(cases[L], network, MODEL, CPU, stop=stop):
            reached.append(event)
            if event.name == stage:
                stop.set()

    with pytest.raises(CancelledError):
        consume()
    assert reached[-1].name == stage


# Labels


@pytest.mark.parametrize(
    ("spacing", "needed"), [((1.0, 1.0, 1.0), 20), ((0.8, 0.8, 0.8), 39), ((1.0, 1.0, 2.0), 10), ((3.0, 2.0, 2.0), 5)]
)
def test_a_piece_of_predicted_pcs_has_at_least_20_mm3_and_enough_voxels_to_measure(
    monkeypatch, network, spacing, needed
):
    shape = tuple(round(mm / s) for mm, s in zip((30, 150, 100), spacing, strict=True))
    tissue = Volume.from_array(np.full(shape, 2, np.uint8), np.diag([*spacing, 1.0]))
    case = Case(CaseKey("box", "", L), tissue, tissue)
    look_through_a_small_box(monkeypatch)
    for voxels, label in ((needed - 1, 1), (needed, 2)):
        # Columns of at most 30 voxels side by side, whatever the image's size.
        found = np.zeros((2, *shape), np.float32)
        found.reshape(2, -1)[:, [np.ravel_multi_index((2, 5 + n % 30, 5 + n // 30), shape) for n in range(voxels)]] = 1
        channels = iter(found)
        monkeypatch.setattr(NetworkGrid, "push", lambda _, __, channels=channels: next(channels))
        labels = predict(case, network, MODEL, CPU).labels
        assert labels.max() == label
        assert np.count_nonzero(labels) == voxels


# The network's input


@pytest.mark.parametrize("position", [True, False])
def test_the_input_is_tissue_between_0_and_1_and_position_where_asked_for(cases, position):
    found = network_input(cases[R], position=position)
    assert found.image.dtype == np.float32
    assert len(found.image) == (4 if position else 1)
    assert np.unique(found.image[0]).tolist() == [0, 0.5, 1]
    if position:
        np.testing.assert_array_equal(found.image[1:], found.grid.position())


@pytest.mark.parametrize("side", [L, R])
@pytest.mark.parametrize("size", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("spacing", [0.7, 1.2])
def test_no_tissue_is_lost_whatever_the_voxel_size_and_the_size_of_the_head(side, spacing, size):
    # A phantom whose header says another size is a smaller or larger head; small voxels are halves of coarse ones.
    n = 2 if spacing < 1 else 1
    case = phantom(side, spacing_mm=n * spacing / size)
    data = case.tissue.data.repeat(n, axis=0).repeat(n, axis=1).repeat(n, axis=2)
    tissue = Volume.from_array(data, np.diag([spacing, spacing, spacing, 1.0]))
    found = network_input(Case(case.key, tissue, tissue, MappingProxyType({})), position=False).image[0]
    assert found.sum() == pytest.approx(data.sum() / 2 * spacing**3, rel=0.01)
    # It fills its box: nothing is wasted and nothing is cut.
    for axis in range(3):
        used = np.flatnonzero((found > 0).any(axis=tuple(a for a in range(3) if a != axis)))
        assert used[0] <= 1
        assert used[-1] >= found.shape[axis] - 2


def test_a_brain_of_impossible_size_is_refused_before_the_network_runs(cases, network):
    affine = np.diag([0.4, 0.4, 0.4, 1.0])
    tissue = Volume.from_array(cases[L].tissue.data, affine)
    with pytest.raises(InputError, match="mm long from front to back"):
        predict(Case(cases[L].key, tissue, tissue), network, MODEL, CPU)
