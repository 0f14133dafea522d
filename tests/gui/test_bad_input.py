"""What a user sees when something is wrong: one sentence, and everything as it was."""

import errno
import os
import threading

import nibabel as nib
import numpy as np
import pytest
from builders import write_landmarks
from waiting import wait_for

from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.edits import Edit
from napari_pcs.session import Session


@pytest.fixture
def grey_white(tmp_path):
    case = phantom(pcs_length_mm=0, spacing_mm=2.0)
    path = tmp_path / "sub-a_hemi-L_gw.nii.gz"
    case.tissue.with_data(case.tissue.data * np.uint8(100)).write(path)
    write_landmarks(case, path)
    return path


def test_a_good_file_opens_and_says_what_it_was_taken_for(state, workspace, settle, grey_white):
    workspace.panels["Load"].scan.setText(str(grey_white))
    workspace.panels["Load"].open_files.click()
    settle()
    assert state.case.key.stem == "sub-a_hemi-L"
    assert "Grey/white map" in state.message.text


def broken(kind, path):
    affine = np.diag([1.0, 1, 1, 1])
    match kind:
        case "text":
            path.write_text("not an image")
        case "4-D":
            nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 2), np.uint8), affine), path)
        case "NaN":
            nib.save(nib.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), affine), path)
        case "0 everywhere":
            nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), affine), path)
        case "different values":
            pytest.importorskip("ants", reason="a scan is looked at where it can be segmented")
            nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)).astype(np.float32), affine), path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "not an image"),
        ("4-D", "4 dimensions"),
        ("NaN", "NaN"),
        ("0 everywhere", "0 everywhere"),
        ("different values", "a T1-weighted scan"),
    ],
)
def test_a_bad_file_is_one_sentence_and_the_open_case_stays(
    state, workspace, settle, grey_white, tmp_path, kind, words
):
    do = workspace.panels["Load"].do
    do.open_files(grey_white)
    settle()
    before = state.case
    path = tmp_path / "sub-b_hemi-L_gw.nii.gz"
    broken(kind, path)
    do.open_files(path)
    settle()
    assert state.message.is_error
    assert state.message.text.startswith(path.name)
    assert words in state.message.text
    assert "expected" in state.message.text
    assert workspace.status.sentence.text() == state.message.text
    assert state.case is before


def test_a_file_that_does_not_say_its_side_is_refused_until_the_user_does(
    state, workspace, settle, grey_white, tmp_path
):
    path = tmp_path / "someone.nii.gz"
    path.write_bytes(grey_white.read_bytes())
    panel = workspace.panels["Load"]
    panel.scan.setText(str(path))
    panel.open_files.click()
    settle()
    assert state.case is None
    assert "which hemisphere" in state.message.text
    panel.side.setCurrentText("left")
    panel.open_files.click()
    settle()
    assert state.case.key.hemisphere == "L"


def test_saving_needs_labels_a_session_and_a_name(state, workspace, settle):
    do = workspace.panels["Load"].do
    do.save_correction("me")
    assert "Predict first" in state.message.text
    do.open_sample("phantom-30mm")
    settle()
    do.save_correction("  ")
    assert "editor's name" in state.message.text
    do.save_correction("me")
    assert "Choose a session folder" in state.message.text
    assert state.message.is_error


def test_a_full_disk_keeps_the_labels_on_screen_and_the_session_as_it_was(
    viewer, state, workspace, settle, tmp_path, monkeypatch
):
    do = workspace.panels["Load"].do
    do.open_session(tmp_path / "session")
    do.open_sample("phantom-30mm")
    settle()
    layer = viewer.layers["labels"]
    layer.data_setitem((np.array([5]), np.array([5]), np.array([5])), 2)
    wait_for(lambda: state.dirty)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        do.save_correction("me")
        settle()
    assert state.message.is_error
    assert "the disk is full" in state.message.text
    assert state.dirty
    assert layer.data[5, 5, 5] == 2
    assert Session.open(tmp_path / "session").corrected_keys() == []
    assert not list((tmp_path / "session").rglob("*.part"))

    do.save_correction("me")
    settle()
    assert not state.dirty
    assert len(Session.open(tmp_path / "session").corrected_keys()) == 1


def test_what_is_painted_while_a_correction_is_being_saved_stays_unsaved(
    viewer, state, workspace, settle, tmp_path, monkeypatch
):
    do = workspace.panels["Load"].do
    do.open_session(tmp_path / "session")
    do.open_sample("phantom-30mm")
    settle()
    layer = viewer.layers["labels"]
    layer.data_setitem((np.array([5]), np.array([5]), np.array([5])), 2)
    wait_for(lambda: state.dirty)
    sync, real = os.fsync, threading.Event()

    def slow(descriptor):
        real.wait(20)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    workspace.panels["Correct"].save.click()
    assert state.job is not None
    assert not workspace.panels["Correct"].save.isEnabled()
    layer.data_setitem((np.array([6]), np.array([6]), np.array([6])), 2)
    real.set()
    settle()
    assert not state.message.is_error
    assert state.dirty
    saved = Session.open(tmp_path / "session").load(state.case.key).labels[LabelRole.CORRECTED].data
    assert (saved[5, 5, 5], saved[6, 6, 6]) == (2, 0)
    assert state.sitting_seconds > 0
    layer.undo()
    wait_for(lambda: not state.dirty)

    layer.redo()
    workspace.panels["Correct"].save.click()
    settle()
    assert not state.dirty
    log = next((tmp_path / "session").rglob("*_edits.jsonl")).read_text().splitlines()
    assert [len(Edit.model_validate_json(line).index) for line in log] == [1, 1]


def test_unsaved_labels_are_not_lost_to_another_case_unless_the_user_insists(viewer, state, workspace, settle):
    do = workspace.panels["Load"].do
    do.open_sample("phantom-30mm")
    settle()
    layer = viewer.layers["labels"]
    layer.data_setitem((np.array([5]), np.array([5]), np.array([5])), 2)
    wait_for(lambda: state.dirty)
    do.open_sample("phantom-60mm")
    assert state.message.is_error
    assert "not saved" in state.message.text
    assert viewer.layers["labels"] is layer
    do.open_sample("phantom-60mm")
    settle()
    assert state.case.key.subject == "phantom60mm"


def test_tuning_without_corrections_says_what_to_do(state, workspace):
    workspace.panels["Tune"].run.click()
    assert state.message.is_error
    assert "Correct a prediction and save it first" in state.message.text


def test_a_second_job_is_refused_while_one_runs(state, workspace, settle):
    do = workspace.panels["Load"].do
    do.open_sample("phantom-30mm")
    do.open_sample("phantom-60mm")
    assert "still running" in state.message.text
    settle()
    assert state.case.key.subject == "phantom30mm"
