"""Which slices are written down as looked at, and what becomes of a case that is partly done."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication
from waiting import wait_for

from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of
from napari_pcs.looked import Looked
from napari_pcs.session import Session

SPACING = 2.0


@pytest.fixture(scope="module")
def case():
    return phantom(pcs_length_mm=30, spacing_mm=SPACING)


@pytest.fixture
def opened(viewer, state, workspace, case):
    """The case is open with its reference to edit, and the slices seen so far are forgotten."""
    state.case = case
    look(viewer, 0, 3)
    state.looked = Looked()
    return workspace.panels["Correct"]


def look(viewer, axis, index):
    """Show a slice, and let it be drawn."""
    viewer.dims.set_current_step(axis, index)
    QApplication.processEvents()


def ticked(panel):
    panel.partly.setChecked(True)
    return panel


def test_slices_that_are_shown_are_written_down_by_axis(viewer, state, opened):
    for index in (4, 5, 9):
        look(viewer, 0, index)
    viewer.dims.order = (1, 0, 2)
    look(viewer, 1, 20)
    look(viewer, 1, 21)
    viewer.dims.order = (2, 0, 1)
    look(viewer, 2, 7)
    recorded = state.looked
    assert recorded.x == ((4, 5), (9, 9))
    # Turning to another plane shows its slice too.
    assert {20, 21} <= recorded.indices[1]
    assert 7 in recorded.indices[2]
    assert len(recorded.indices[1]) <= 3


def test_slices_in_3d_or_without_labels_to_edit_are_not(viewer, state, opened, case):
    viewer.dims.ndisplay = 3
    look(viewer, 0, 12)
    assert state.looked == Looked()
    viewer.dims.ndisplay = 2
    viewer.layers["labels"].visible = False
    look(viewer, 0, 13)
    assert state.looked == Looked()
    state.case = replace(case, labels=MappingProxyType({}))
    look(viewer, 0, 14)
    assert state.looked == Looked()


def test_the_index_is_that_of_the_cases_grid_whatever_else_is_in_the_viewer(viewer, state, opened, case):
    finer = np.zeros((2, 8, 300, 9), np.float32)
    viewer.add_image(finer, scale=(1, 0.5, 0.5, 0.5), translate=(0, *(np.array(case.tissue.affine[:3, 3]) - 4)))
    x = case.tissue.affine[0, 3] + 6 * SPACING
    viewer.dims.set_point(viewer.dims.ndim - 3, x + 0.2)
    QApplication.processEvents()
    assert 6 in state.looked.indices[0]


def test_a_slice_does_not_count_while_something_beside_the_hemisphere_is_looked_at(viewer, state, opened, case):
    far = case.tissue.affine[1, 3] + (case.tissue.shape[1] + 40) * SPACING
    center = viewer.scene.camera.center
    viewer.scene.camera.center = (center[0], center[1], far)
    look(viewer, 0, 15)
    assert state.looked == Looked()
    viewer.scene.camera.center = center
    QApplication.processEvents()
    assert state.looked.indices[0] == {15}


def test_the_panel_says_how_much_was_looked_at_only_when_the_case_is_partly_done(viewer, state, opened, case):
    there = np.flatnonzero((case.tissue.data > 0).any(axis=(1, 2)))
    look(viewer, 0, int(there[3]))
    look(viewer, 0, int(there[4]))
    look(viewer, 0, 0)  # outside the hemisphere
    assert 0 not in there
    assert "looked at" not in opened.live.text()
    ticked(opened)
    assert f"looked at 2 of {len(there)} sagittal slices" in opened.live.text()
    look(viewer, 0, int(there[5]))
    assert f"looked at 3 of {len(there)} sagittal slices" in opened.live.text()


def test_other_labels_are_looked_at_anew(viewer, state, opened, workspace, case):
    look(viewer, 0, 8)
    assert 8 in state.looked.indices[0]
    blank = np.zeros(case.tissue.shape, np.uint8)
    workspace.panels["Load"].do._sync.replace_labels(blank)
    look(viewer, 0, 9)
    assert state.looked.indices[0] == {9} or state.looked.indices[0] == {8, 9}  # the one that is shown counts again


def test_the_record_is_saved_restored_and_grows_over_sittings(
    viewer, state, opened, settle, tmp_path, case, make_napari_viewer
):
    opened.do.open_session(tmp_path / "session")
    opened.editor.setText("A. Notator")
    look(viewer, 0, 10)
    ticked(opened).save.click()
    settle()
    assert not state.message.is_error, state.message.text
    session = Session.open(tmp_path / "session")
    first = session.load(case.key).labels[LabelRole.CORRECTED].provenance
    assert first.partly_done
    assert first.looked_at == Looked(x=((10, 10),))

    other = make_napari_viewer()
    panel, again = open_workspace(other).panels["Correct"], state_of(other)
    panel.do.open_session(tmp_path / "session")
    panel.do.open_case(case.key)
    wait_for(lambda: again.case is not None and again.job is None)
    assert panel.partly.isChecked()
    assert 10 in again.looked.indices[0]
    look(other, 0, 20)
    look(other, 0, 21)
    panel.partly.setChecked(False)
    panel.editor.setText("B. Notator")
    panel.save.click()
    wait_for(lambda: again.job is None)
    second = session.load(case.key).labels[LabelRole.CORRECTED].provenance
    assert not second.partly_done
    assert {10, 20, 21} <= second.looked_at.indices[0]

    state.case = phantom(pcs_length_mm=60, spacing_mm=SPACING)
    assert not opened.partly.isChecked()


def test_partly_done_without_any_slice_looked_at_is_refused(viewer, state, opened, tmp_path):
    opened.do.open_session(tmp_path / "session")
    ticked(opened)
    assert state.looked == Looked()
    opened.save.click()
    assert state.message.is_error
    assert "no slice that was looked at" in state.message.text
    assert Session.open(tmp_path / "session").keys() == []
