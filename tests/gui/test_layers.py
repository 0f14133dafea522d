import warnings
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from waiting import wait_for

from napari_pcs.anatomy.length import measure_case
from napari_pcs.case import Case, LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.gui.layers import LayerSync
from napari_pcs.labels import Hemisphere, PcsClass
from napari_pcs.predict import Prediction
from napari_pcs.provenance import ModelReference
from napari_pcs.volume import Volume


def bare(case: Case) -> Case:
    return replace(case, labels=MappingProxyType({}))


@pytest.fixture(scope="module")
def case():
    return phantom(pcs_length_mm=30, spacing_mm=2.0)


def prediction_of(labels: np.ndarray, case: Case) -> Prediction:
    return Prediction(
        labels=labels,
        probabilities=np.stack([labels >= 1, labels == 2], axis=-1).astype(np.float32),
        class_probabilities=MappingProxyType(dict.fromkeys(PcsClass.measured(), 1 / 3)),
        measurement=measure_case(case, labels),
        uncertainty=0.0,
        timings_s=MappingProxyType({"prepare": 0.0, "network": 0.0, "postprocess": 0.0, "total": 0.0}),
        peak_memory_mb=1.0,
        device=torch.device("cpu").type,
        mode="whole",
        model=ModelReference(name="test", digest="0" * 64),
    )


@pytest.fixture
def predicted(state, case):
    """The case is open and its reference labels are the prediction."""
    labels = case.labels[LabelRole.REFERENCE].data
    state.case = bare(case)
    state.prediction = prediction_of(labels.copy(), case)
    return labels


def paint(layer, value=2):
    """Paint one voxel that has another value; return where."""
    where = tuple(int(i) for i in np.argwhere(layer.data != value)[1000])
    layer.selected_label = value
    layer.brush_size = 1
    layer.paint(where, value)
    return where


def test_a_case_has_the_four_layers_with_one_unit_and_one_set_of_axes(viewer, state, predicted, case):
    assert [layer.name for layer in viewer.layers] == [case.key.stem, "skeleton", "PCS (predicted)", "labels"]
    for layer in viewer.layers:
        assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
        assert layer.axis_labels == ("x", "y", "z")
        np.testing.assert_allclose(layer.scale, case.tissue.spacing)
        np.testing.assert_allclose(layer.translate, case.tissue.affine[:3, 3])
    assert [layer.editable for layer in viewer.layers[1:]] == [False, False, True]
    np.testing.assert_array_equal(viewer.layers["skeleton"].data > 0, predicted >= 1)
    np.testing.assert_array_equal(viewer.layers["PCS (predicted)"].data > 0, predicted == 2)
    np.testing.assert_array_equal(viewer.layers["labels"].data, predicted)


def test_an_image_is_shown_from_its_darkest_value_to_nearly_its_brightest(viewer, state, case):
    tissue = case.tissue.with_data(np.minimum(case.tissue.data, 2).astype(np.uint8))
    state.case = replace(bare(case), tissue=tissue, image=tissue)
    # Of bytes napari would show 0 to 255, in which grey and white matter are black.
    assert tuple(viewer.layers[0].contrast_limits) == (0, 2)
    scan = np.linspace(0, 1000, tissue.data.size, dtype=np.float32).reshape(tissue.shape)
    scan[0, 0, 0] = 1e6
    state.case = replace(bare(case), tissue=tissue, image=tissue.with_data(scan))
    low, high = viewer.layers[0].contrast_limits
    assert low == pytest.approx(0, abs=1)
    assert 990 < high <= 1000
    state.case = replace(bare(case), tissue=tissue, image=tissue.with_data(np.full_like(scan, 7)))
    assert tuple(viewer.layers[0].contrast_limits) == (7, 8)


@pytest.mark.parametrize(("side", "word"), [(Hemisphere.LEFT, "LEFT"), (Hemisphere.RIGHT, "RIGHT")])
def test_the_canvas_says_which_hemisphere_it_shows(viewer, state, side, word):
    state.case = phantom(side, pcs_length_mm=30, spacing_mm=2.0)
    assert viewer.canvas.overlays.text.visible
    assert word in viewer.canvas.overlays.text.text


def test_the_sagittal_plane_has_anterior_to_the_right_and_superior_up(viewer, state, case):
    state.case = bare(case)
    assert tuple(viewer.dims.displayed) == (2, 1)
    assert tuple(str(v.value if hasattr(v, "value") else v) for v in viewer.scene.camera.orientation2d) == (
        "up",
        "right",
    )


def test_painting_makes_the_labels_dirty_and_undo_makes_them_clean_again(viewer, state, predicted):
    layer = viewer.layers["labels"]
    assert not state.dirty
    paint(layer)
    wait_for(lambda: state.dirty)
    layer.undo()
    wait_for(lambda: not state.dirty)
    np.testing.assert_array_equal(layer.data, predicted)
    layer.redo()
    wait_for(lambda: state.dirty)


def test_length_and_class_follow_the_brush(viewer, state, predicted, case):
    expected = measure_case(case, predicted)
    assert state.length_mm == pytest.approx(expected.length_mm)
    layer = viewer.layers["labels"]
    layer.data_setitem(np.nonzero(layer.data == 2), 1)
    wait_for(lambda: state.length_mm == 0)
    assert state.pcs_class == "absent"
    layer.undo()
    wait_for(lambda: state.length_mm == pytest.approx(expected.length_mm))


def test_the_panel_shows_the_class_of_the_length_that_it_shows(viewer, state, workspace, predicted):
    live = workspace.panels["Correct"].live
    layer = viewer.layers["labels"]
    wait_for(lambda: "Measuring" not in live.text())
    assert "small" in live.text()
    layer.data_setitem(np.nonzero(layer.data == 2), 1)
    wait_for(lambda: state.length_mm == 0)
    assert "absent" in live.text()
    layer.undo()
    wait_for(lambda: state.length_mm > 0)
    assert "small" in live.text()


def test_a_case_whose_commissures_nobody_knows_can_be_labelled_and_has_no_length(viewer, state, workspace, case):
    labels = case.labels[LabelRole.REFERENCE].data.copy()
    unknown = replace(bare(case), commissures=None)
    state.case = unknown
    state.prediction = prediction_of(labels, unknown)
    assert state.prediction.measurement is None
    assert (state.length_mm, state.pcs_class) == (None, None)
    assert "nobody knows AC and PC" in workspace.panels["Predict"].found.text()
    paint(viewer.layers["labels"])
    wait_for(lambda: state.dirty)
    assert state.length_mm is None
    assert "AC and PC unknown" in workspace.panels["Correct"].live.text()


def test_the_prediction_layers_do_not_change_when_the_labels_are_painted(viewer, state, predicted):
    before = {name: viewer.layers[name].data.copy() for name in ("skeleton", "PCS (predicted)")}
    paint(viewer.layers["labels"])
    for name, data in before.items():
        np.testing.assert_array_equal(viewer.layers[name].data, data)
    np.testing.assert_array_equal(state.prediction.labels, predicted)


def test_a_second_prediction_replaces_untouched_labels_and_their_undo_history(viewer, state, predicted, case):
    layer = viewer.layers["labels"]
    paint(layer)
    layer.undo()
    wait_for(lambda: not state.dirty)
    second = np.where(predicted == 2, 1, predicted).astype(np.uint8)
    state.prediction = prediction_of(second, case)
    np.testing.assert_array_equal(layer.data, second)
    layer.redo()
    layer.undo()
    np.testing.assert_array_equal(layer.data, second)


def test_a_second_prediction_leaves_edited_labels_alone(viewer, state, predicted, case):
    layer = viewer.layers["labels"]
    where = paint(layer)
    wait_for(lambda: state.dirty)
    state.prediction = prediction_of(np.zeros_like(predicted), case)
    assert layer.data[where] == 2
    assert state.dirty


def test_starting_again_from_the_prediction_is_one_step_that_can_be_undone(viewer, state, predicted):
    layer = viewer.layers["labels"]
    paint(layer)
    edited = layer.data.copy()
    LayerSync.of(viewer).replace_labels(predicted)
    np.testing.assert_array_equal(layer.data, predicted)
    layer.undo()
    np.testing.assert_array_equal(layer.data, edited)


def test_an_oblique_image_is_shown_without_a_warning(viewer, state, case):
    angle = np.radians(12)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    volume = Volume.from_array(case.tissue.data, turn @ case.tissue.affine)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        state.case = Case(case.key, volume, volume)
    assert len(viewer.layers) == 1


def test_opening_another_case_removes_the_layers_of_the_first_and_only_those(viewer, state, predicted, case):
    viewer.add_points(np.zeros((1, 3)), name="mine")
    state.prediction = None
    state.case = bare(phantom(Hemisphere.RIGHT, pcs_length_mm=0, spacing_mm=2.0))
    assert [layer.name for layer in viewer.layers] == ["mine", state.case.key.stem]
