"""AC and PC by two clicks: where they lie in the world, and what they leave as it was."""

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from builders import affine_of
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)
from qtpy.QtCore import Qt
from waiting import wait_for

from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole
from napari_pcs.commissures import FrameSource
from napari_pcs.gui.commissures import POINTS
from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of
from napari_pcs.labels import Hemisphere
from napari_pcs.provenance import Provenance
from napari_pcs.session import Session
from napari_pcs.volume import Volume

SHAPE = (40, 60, 50)
SPACING = (0.8, 1.0, 1.2)
AC, PC = (35, 40, 20), (35, 14, 22)
"""Voxel indices in the source's own axes."""


def case_in(orientation):
    """A case without a known frame; its labels hold one bar of PCS."""
    affine = affine_of(orientation, SPACING)
    tissue = np.zeros(SHAPE, np.uint8)
    tissue[5:-5, 5:-5, 5:-5] = 1
    volume = Volume.from_array(tissue, affine)
    labels = np.zeros(volume.shape, np.uint8)
    labels[20, 10:40, 25] = 2
    case = Case(CaseKey("a", "", Hemisphere.LEFT), volume, volume)
    return case.with_labels(LabelRole.REFERENCE, labels, Provenance(manual=True, hemisphere="L")), affine


def shown_at(case, world_mm):
    """Displayed coordinates of a world point: those of an axis-aligned grid with the same origin."""
    index = np.linalg.inv(case.tissue.affine) @ [*world_mm, 1]
    return case.tissue.affine[:3, 3] + index[:3] * case.tissue.spacing


def click(viewer, shown, drag=0):
    """Press, tremble by a pixel or drag, and release, as the canvas tells the viewer."""

    steps = (
        ("mouse_press", mouse_press_callbacks, 0),
        ("mouse_move", mouse_move_callbacks, drag or 1),
        ("mouse_release", mouse_release_callbacks, drag or 1),
    )
    for kind, callbacks, offset in steps:
        event = SimpleNamespace(
            type=kind,
            button=1,
            pos=np.array([100 + offset, 100]),
            position=tuple(shown),
            modifiers=(),
            is_dragging=kind == "mouse_move",
            handled=False,
        )
        seen = ReadOnlyWrapper(event, exceptions=("handled",))
        callbacks(viewer, seen)
        if viewer.layers.selection.active is not None:
            callbacks(viewer.layers.selection.active, seen)


def set_both(viewer, panel, case, ac, pc):
    for name, world in (("AC", ac), ("PC", pc)):
        panel.landmarks.buttons[name].click()
        click(viewer, shown_at(case, world))


def world_of(affine, index):
    return (affine @ [*index, 1])[:3]


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "oblique"])
def test_two_clicks_give_the_frame_in_the_world_of_the_file(viewer, state, workspace, settle, orientation):
    case, affine = case_in(orientation)
    state.case = case
    ac, pc = world_of(affine, AC), world_of(affine, PC)
    if orientation != "RAS":
        ac, pc = pc, ac  # the array's second axis runs backwards
    panel = workspace.panels["Load"]
    assert "Unknown" in panel.landmarks.line.text()
    set_both(viewer, panel, case, ac, pc)
    settle()
    frame = state.case.commissures
    np.testing.assert_allclose(frame.ac_mm, ac, atol=1e-6)
    np.testing.assert_allclose(frame.pc_mm, pc, atol=1e-6)
    assert frame.source is FrameSource.CLICKS
    assert f"{np.linalg.norm(ac - pc):.1f} mm apart" in state.message.text
    assert "From your clicks" in panel.landmarks.line.text()
    # Both points and the image's own up direction lie in the midline plane.
    up = case.tissue.affine[:3, 2]
    np.testing.assert_allclose(np.array([ac - pc, up]) @ frame.right, 0, atol=1e-6)

    layer = viewer.layers[POINTS]
    shown = [layer.data_to_world(p) for p in layer.data]
    np.testing.assert_allclose(shown, [shown_at(case, ac), shown_at(case, pc)], atol=1e-5)
    assert list(layer.features["name"]) == ["AC", "PC"]
    assert layer.axis_labels == ("x", "y", "z")
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    np.testing.assert_allclose(layer.size * np.mean(SPACING), 4, rtol=1e-6)
    assert not layer.editable


def test_hand_computed_world_coordinates_of_an_oblique_image(viewer, state, workspace):
    """An image turned by 90 + 0 degrees is trivial; 3-4-5 triangles turn this one about z."""
    affine = np.array([[0.8, -0.6, 0, 10], [0.6, 0.8, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1.0]])
    volume = Volume.from_array(np.ones((40, 60, 50), np.uint8), affine)
    state.case = Case(CaseKey("a", "", Hemisphere.LEFT), volume, volume)
    do = workspace.panels["Load"].do
    do.ask_for("AC")
    click(viewer, (10 + 20, 20 + 40, 30 + 25))  # voxel (20, 40, 25) as it is shown
    do.ask_for("PC")
    click(viewer, (10 + 20, 20 + 15, 30 + 25))
    assert state.case.commissures.ac_mm == pytest.approx((10 + 16 - 24, 20 + 12 + 32, 55))
    assert state.case.commissures.pc_mm == pytest.approx((10 + 16 - 9, 20 + 12 + 12, 55))


def test_points_too_near_are_a_sentence_and_one_of_them_can_be_set_again(viewer, state, workspace):
    case, affine = case_in("RAS")
    state.case = case
    panel = workspace.panels["Load"]
    ac = world_of(affine, AC)
    set_both(viewer, panel, case, ac, ac - [0, 5, 0])
    assert state.message.is_error
    assert "5.0 mm apart" in state.message.text
    assert state.case.commissures is None
    assert len(viewer.layers[POINTS].data) == 2
    assert "Set so far: AC" in panel.landmarks.line.text()
    panel.landmarks.buttons["PC"].click()
    click(viewer, shown_at(case, ac - [0, 25, 0]))
    assert not state.message.is_error
    np.testing.assert_allclose(state.case.commissures.pc_mm, ac - [0, 25, 0], atol=1e-6)

    set_both(viewer, panel, case, ac - [0, 25, 0], ac)
    assert state.message.is_error
    assert "exchanged" in state.message.text


def test_edits_and_their_history_are_untouched_and_no_tool_paints_under_the_click(viewer, state, workspace):
    case, affine = case_in("RAS")
    state.case = case
    layer = viewer.layers["labels"]
    workspace.panels["Correct"].use("paint")
    layer.paint((20, 45, 25), 2)
    wait_for(lambda: state.dirty)
    edited = layer.data.copy()
    ac = world_of(affine, AC)
    set_both(viewer, workspace.panels["Load"], case, ac, ac - [0, 25, 0])
    assert viewer.layers["labels"] is layer
    assert viewer.layers.selection.active is layer
    assert layer.mode == "paint"
    assert state.dirty
    np.testing.assert_array_equal(layer.data, edited)
    layer.undo()
    wait_for(lambda: not state.dirty)
    np.testing.assert_array_equal(layer.data, case.labels[LabelRole.REFERENCE].data)


def test_a_drag_a_click_outside_and_escape_set_nothing(viewer, state, workspace, qtbot):
    case, affine = case_in("RAS")
    state.case = case
    panel = workspace.panels["Load"]
    inside = shown_at(case, world_of(affine, AC))
    panel.landmarks.buttons["AC"].click()
    assert "Click the anterior commissure" in workspace.status.sentence.text()
    click(viewer, inside, drag=30)
    assert state.asked_for == "AC"
    click(viewer, np.add(inside, [0, 500, 0]))
    assert "outside the image" in state.message.text
    assert state.asked_for == "AC"
    keys = {str(key): action for key, action in viewer.keymap.items()}
    keys["Escape"](viewer)
    assert state.asked_for is None
    click(viewer, inside)
    assert state.clicked == {}
    assert POINTS not in viewer.layers
    assert "Escape" not in map(str, viewer.keymap)

    panel.landmarks.buttons["PC"].click()
    assert panel.landmarks.buttons["PC"].isChecked()
    panel.landmarks.buttons["PC"].click()
    assert state.asked_for is None
    assert not panel.landmarks.buttons["PC"].isChecked()


def test_taking_a_tool_in_hand_gives_up_the_point(viewer, state, workspace):
    case, affine = case_in("RAS")
    state.case = case
    workspace.panels["Load"].do.ask_for("AC")
    workspace.panels["Correct"].use("paint")
    assert state.asked_for is None
    click(viewer, shown_at(case, world_of(affine, AC)))
    assert state.clicked == {}


@pytest.mark.parametrize("stored", [True, False], ids=["in the session", "not yet in the session"])
def test_clicked_points_are_kept_and_come_back(viewer, state, workspace, settle, tmp_path, make_napari_viewer, stored):
    case, affine = case_in("LPI")
    do = workspace.panels["Load"].do
    do.open_session(tmp_path / "session")
    if stored:
        state.session.add(case)
    state.case = case
    pc, ac = world_of(affine, AC), world_of(affine, PC)
    set_both(viewer, workspace.panels["Load"], case, ac, pc)
    settle()
    assert ("Kept in the session" in state.message.text) == stored
    if not stored:
        do.save_correction("me")
        settle()
    assert not state.message.is_error
    frame = state.case.commissures
    assert Session.open(tmp_path / "session").load(case.key).commissures == frame

    other = make_napari_viewer()
    reopened, again = open_workspace(other), state_of(other)
    reopened.panels["Load"].do.open_session(tmp_path / "session")
    reopened.panels["Load"].do.open_case(case.key)
    wait_for(lambda: again.case is not None and again.job is None)
    assert again.case.commissures == frame
    assert len(other.layers[POINTS].data) == 2
    assert not again.dirty


def test_another_image_of_the_same_name_in_the_session_is_not_given_these_points(
    viewer, state, workspace, settle, tmp_path
):
    case, affine = case_in("RAS")
    do = workspace.panels["Load"].do
    do.open_session(tmp_path / "session")
    state.session.add(replace(case, labels=MappingProxyType({})))
    changed = case.tissue.data.copy()
    changed[20, 30, 25] = 2
    volume = case.tissue.with_data(changed)
    state.case = replace(case, tissue=volume, image=volume)
    ac = world_of(affine, AC)
    set_both(viewer, workspace.panels["Load"], case, ac, ac - [0, 25, 0])
    settle()
    assert state.message.is_error
    assert "another hemisphere of that name" in state.message.text
    assert state.session.load(case.key).commissures is None


def test_escape_is_heard_where_the_buttons_have_the_focus(viewer, state, workspace, qtbot):
    case, _affine = case_in("RAS")
    state.case = case
    viewer.window._qt_window.show()
    workspace.show_panel("Load")
    button = workspace.panels["Load"].landmarks.buttons["AC"]
    button.click()
    qtbot.wait(50)
    viewer.window._qt_window.activateWindow()
    button.setFocus()
    qtbot.keyClick(button, Qt.Key.Key_Escape)
    wait_for(lambda: state.asked_for is None, 5)
