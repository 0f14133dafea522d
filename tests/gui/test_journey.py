"""The whole path in a real viewer, with the shipped model: load, predict, correct, save, tune, report."""

import json
import time

import numpy as np
import pytest
from waiting import wait_for

from napari_pcs.case import LabelRole
from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of
from napari_pcs.models.folders import find_model
from napari_pcs.session import Session


def paint_a_bar(viewer):
    """Paint a PCS of some centimetres with napari's own brush, in the slice that is shown."""
    layer = viewer.layers["labels"]
    layer.mode = "paint"
    layer.selected_label = 2
    layer.brush_size = 2
    x, middle = viewer.dims.current_step[0], [n // 2 for n in layer.data.shape]
    with layer.block_history():
        for y in range(30):
            layer.paint((x, middle[1] + y, middle[2] + 20), 2)


@pytest.mark.parametrize("sample", ["phantom-30mm"])
@pytest.mark.usefixtures("real_worker")
def test_load_predict_correct_save_tune_report(viewer, state, workspace, settle, tmp_path, sample, make_napari_viewer):
    panels = workspace.panels
    do = panels["Load"].do
    do.open_session(tmp_path / "session")
    panels["Load"].sample.setCurrentText(sample)
    panels["Load"].open_sample.click()
    settle()
    assert state.case.key.stem == "sub-phantom30mm_hemi-L"
    assert not state.message.is_error

    panels["Predict"].run.click()
    assert state.job is not None
    assert not panels["Predict"].run.isEnabled()
    settle()
    assert panels["Predict"].run.isEnabled()
    assert {"read", "prepare", "network", "postprocess", "draw"} <= state.timings_s.keys()
    assert f"{state.prediction.measurement.length_mm:.1f} mm" in panels["Predict"].found.text()

    paint_a_bar(viewer)
    wait_for(lambda: state.dirty)
    labels = viewer.layers["labels"].data.copy()
    panels["Correct"].editor.setText("A. Notator")
    panels["Correct"].save.click()
    settle()
    assert not state.dirty
    assert not state.message.is_error

    session = Session.open(tmp_path / "session")
    restored = session.load(state.case.key)
    np.testing.assert_array_equal(restored.labels[LabelRole.CORRECTED].data, labels)
    provenance = restored.labels[LabelRole.CORRECTED].provenance
    starter = find_model("starter")
    assert (provenance.manual, provenance.editor) == (True, "A. Notator")
    assert provenance.edit_seconds > 0
    assert provenance.model.digest == starter.digest
    np.testing.assert_array_equal(restored.labels[LabelRole.PREDICTED].data, state.prediction.labels)

    tune = panels["Tune"]
    for name, value in {"patches": 1, "views": 1, "batch_size": 1, "patch": 32}.items():
        tune.more.set(name, value)
    tune.run.click()
    points = tune.curves.lines["loss"].getData
    wait_for(lambda: points()[0] is not None and len(points()[0]) > 1)
    began = time.monotonic()
    workspace.status.stop_tuning.click()
    settle()
    assert time.monotonic() - began < 10  # two seconds on a machine of one's own
    assert not state.message.is_error, state.message.text
    assert "best weights kept" in state.message.text
    assert state.model == "starter"  # a tuning that was cancelled and that nobody has judged is not chosen unasked
    tune.use.click()
    assert state.model == "starter-top-1"
    assert panels["Predict"].model.currentText() == "starter-top-1"
    assert "second person" in panels["Tune"].verdict.text()
    (run,) = (tmp_path / "session" / "runs").iterdir()
    assert json.loads((run / "split.json").read_text()) == {"train": ["sub-phantom30mm_hemi-L"], "held_out": []}
    assert find_model("starter-top-1", session.models).digest != starter.digest

    panels["Report"].run.click()
    settle()
    assert state.report_against == "correction"
    shown = float(panels["Report"].figures.item(0, 1).text())
    assert shown == pytest.approx(state.report.labels["skeleton"].dice, abs=1e-3)
    do.save_table(tmp_path / "report.tsv")
    rows = (tmp_path / "report.tsv").read_text().splitlines()
    assert rows[0].split("\t")[:4] == ["case", "label", "outcome", "dice"]

    # A second viewer on the same session restores the correction, as saved and clean.
    other = make_napari_viewer()
    reopened = open_workspace(other)
    again = state_of(other)
    assert again is not state
    reopened.panels["Load"].do.open_session(tmp_path / "session")
    reopened.panels["Load"].do.open_case(session.keys()[0])
    wait_for(lambda: again.case is not None and again.job is None)
    np.testing.assert_array_equal(other.layers["labels"].data, labels)
    assert not again.dirty
    assert again.edit_seconds >= provenance.edit_seconds


@pytest.mark.usefixtures("real_worker")
def test_cancel_stops_a_prediction_within_two_seconds_and_leaves_nothing(viewer, state, workspace, settle, tmp_path):
    do = workspace.panels["Load"].do
    do.open_session(tmp_path / "session")
    do.open_sample("phantom-0mm")
    settle()
    heard = []
    state.events.event.connect(lambda event: heard.append(getattr(event, "name", "")))
    do.predict()
    wait_for(lambda: "network" in heard)
    time.sleep(0.3)
    start = time.monotonic()
    workspace.status.cancel.click()
    wait_for(lambda: state.job is None)
    assert time.monotonic() - start < 2
    assert state.prediction is None
    assert "cancelled" in state.message.text
    assert Session.open(tmp_path / "session").keys() == []
