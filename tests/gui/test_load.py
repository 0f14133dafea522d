"""Opening every kind of source from the Load panel, and a proposal by rule, in a real viewer."""

import threading
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from builders import skeleton_of, write_landmarks
from waiting import wait_for

from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources.morphologist import MorphologistSubject
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere, Label
from napari_pcs.provenance import Provenance
from napari_pcs.session import Session
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


@pytest.fixture(scope="module")
def cases(person):
    """Both hemispheres of the person, without labels."""

    def case(side):
        volume = Volume.from_array(person.half(side), person.affine)
        return Case(CaseKey("ada", "", side), volume, volume, commissures=person.commissures)

    return {side: case(side) for side in Hemisphere}


@pytest.fixture(scope="module")
def skeletons(cases):
    return {side: skeleton_of(case) for side, case in cases.items()}


@pytest.fixture(autouse=True)
def _quick(monkeypatch, skeletons):
    """The skeletons are known, and the rule proposes the first fold piece."""

    def known(case):
        return skeletons[case.key.hemisphere]

    for name in ("napari_pcs.prepare.extract_skeleton", "napari_pcs.anatomy.extraction.extract_skeleton"):
        monkeypatch.setattr(name, known)
    monkeypatch.setattr("napari_pcs.prepare.propose_pcs", lambda _case, folds, _maps: folds.labels == 1)


@pytest.fixture
def subject(save, person, landmarks, tmp_path):
    """Write a subject as Morphologist does, with AC and PC beside the T1; return its folder."""
    voxels = person.commissures.sidecar(np.linalg.inv(person.affine))["AnatomicalLandmarkCoordinates"]

    def write(name="ada"):
        root = f"db/{name}/t1mri/default_acquisition"
        landmarks(save(f"{root}/{name}.nii.gz", person.brain(), person.affine), voxels["AC"], voxels["PC"])
        for side in Hemisphere:
            tissue = np.array([0, 100, 200], np.int16)[person.half(side)]
            save(f"{root}/default_analysis/segmentation/{side}grey_white_{name}.nii.gz", tissue, person.affine)
        return tmp_path / "db" / name

    return write


@pytest.fixture
def session(workspace, tmp_path):
    workspace.panels["Load"].do.open_session(tmp_path / "session")
    return Session.open(tmp_path / "session")


@pytest.fixture
def open_path(workspace, settle):
    """Type a path into the Load panel, press Open and wait."""

    def press(path, **others):
        panel = workspace.panels["Load"]
        panel.scan.setText(str(path))
        for name in ("image", "reference"):
            getattr(panel, name).setText(str(others.get(name, "")))
        panel.side.setCurrentText(others.get("side", "from the file name"))
        panel.open_files.click()
        settle()

    return press


def edit(viewer, state):
    """Change one voxel that is background now."""
    layer = viewer.layers["labels"]
    where = tuple(np.array([i]) for i in np.argwhere(layer.data == 0)[5000])
    layer.data_setitem(where, int(Label.PCS))
    wait_for(lambda: state.dirty)


def files(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def test_a_subject_is_prepared_into_the_session_and_opens_with_its_proposal(
    viewer, state, workspace, session, subject, open_path, settle, monkeypatch
):
    bar = []
    state.events.message.connect(
        lambda _message: bar.append((workspace.status.bar.maximum(), workspace.status.bar.value()))
    )
    open_path(subject())
    assert not state.message.is_error, state.message.text
    assert session.keys() == [CaseKey("ada", "", L), CaseKey("ada", "", R)]
    assert state.case.key.hemisphere is L
    for words in (
        "Morphologist subject: sub-ada_hemi-L",
        "came with the file",
        "Both hemispheres",
        "nobody has looked",
    ):
        assert words in state.message.text
    shown = [value for maximum, value in bar if maximum == 1000]
    assert shown == sorted(shown)
    assert shown[0] == 0 < shown[len(shown) // 2] < shown[-1]

    assert [layer.name for layer in viewer.layers] == ["sub-ada_hemi-L", "fold pieces", "labels"]
    pieces, labels = viewer.layers["fold pieces"], viewer.layers["labels"]
    np.testing.assert_array_equal(pieces.data, session.load_pieces(state.case.key))
    np.testing.assert_array_equal(labels.data == Label.PCS, pieces.data == 1)
    assert (pieces.visible, pieces.editable, labels.editable, state.dirty) == (False, False, True, False)
    for name in ("scale", "translate", "units", "axis_labels"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(labels, name))
    assert viewer.layers.selection.active is labels
    assert "proposal by rule" in workspace.panels["Correct"].live.text()

    monkeypatch.setattr(MorphologistSubject, "load", None)
    open_path(subject())
    assert not state.message.is_error, state.message.text
    assert "nobody has looked" in state.message.text

    edit(viewer, state)
    workspace.panels["Correct"].editor.setText("A. Notator")
    for _ in range(2):
        workspace.panels["Correct"].save.click()
        settle()
        assert not state.message.is_error, state.message.text
        made = session.load(state.case.key).labels[LabelRole.CORRECTED]
        np.testing.assert_array_equal(made.data, viewer.layers["labels"].data)
        assert made.provenance.model is None
        assert made.provenance.sources == (
            "bids::sub-ada/anat/sub-ada_hemi-L_space-orig_seg-sulci_desc-prop_dseg.nii.gz",
        )
        # The second time the correction itself is opened and saved again.
        workspace.panels["Load"].do.open_case(state.case.key)
        settle()
        assert "saved correction" in state.message.text


def test_without_a_session_one_side_opens_and_the_other_when_it_is_chosen(state, workspace, subject, open_path):
    folder = subject()
    before = files(folder.parent)
    open_path(folder)
    assert state.case.key.hemisphere is L
    assert "To open the right one" in state.message.text
    open_path(folder, side="right")
    assert state.case.key.hemisphere is R
    assert "Next: predict." in state.message.text
    assert files(folder.parent) == before
    case = state.case
    open_path(folder, image=folder / "t1mri/default_acquisition/ada.nii.gz")
    assert state.message.is_error
    assert "found an image or a reference beside a Morphologist subject" in state.message.text
    assert state.case is case


def test_many_scans_need_a_session_and_one_that_is_broken_stops_no_other(
    state, workspace, subject, open_path, tmp_path
):
    subject("ada")
    bad = subject("bob") / "t1mri/default_acquisition/default_analysis/segmentation/Lgrey_white_bob.nii.gz"
    bad.write_bytes(b"not an image")
    database = subject("eve").parent
    open_path(database)
    assert state.message.is_error
    assert state.message.text.startswith("Found 3 scans in db: choose a session folder first")
    workspace.panels["Load"].do.open_session(tmp_path / "session")
    heard = []
    state.events.event.connect(heard.append)
    open_path(database)
    stored = Session.open(tmp_path / "session").keys()
    assert [key.stem for key in stored] == [f"sub-{name}_hemi-{side}" for name in ("ada", "eve") for side in "LR"]
    assert state.case.key.stem == "sub-ada_hemi-L"
    assert "4 hemispheres of 2 scans are in the session. 1 failed, the first: Lgrey_white_bob" in state.message.text
    steps = [event for event in heard if isinstance(event, Step)]
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps)
    assert any(s.sentence.startswith("3 of 3, eve: ") for s in steps)
    assert workspace.panels["Load"].cases.count() == 4


def test_cancelling_leaves_whole_cases_only(state, workspace, session, subject, monkeypatch, skeletons):
    before, folder = files(session.root), subject()
    for side, said in ((L, "Nothing was changed."), (R, "1 hemisphere that was complete is in the session.")):
        reached, go_on = threading.Event(), threading.Event()

        def slow(case, side=side, reached=reached, go_on=go_on):
            if case.key.hemisphere is side:
                reached.set()
                assert go_on.wait(20)
            return skeletons[case.key.hemisphere]

        monkeypatch.setattr("napari_pcs.prepare.extract_skeleton", slow)
        workspace.panels["Load"].scan.setText(str(folder))
        workspace.panels["Load"].open_files.click()
        job = state.job
        wait_for(reached.is_set)
        workspace.status.cancel.click()
        go_on.set()
        wait_for(lambda: state.job is None)
        assert job.wait(10)
        assert state.message.text == f"Opening ada: cancelled. {said}"
        assert state.case is None
        if side is L:
            assert files(session.root) == before
    assert session.keys() == [CaseKey("ada", "", L)]
    assert session.load_skeleton(session.keys()[0]) is not None
    assert not list(session.root.rglob("*hemi-R*"))


def test_a_raw_scan_is_segmented_and_a_single_map_is_only_read(
    state, session, save, person, cases, open_path, monkeypatch
):
    def segment_t1(t1, *, stop):
        yield Step("Segmenting", 0.2)
        halves = {side: t1.with_data(person.half(side)) for side in Hemisphere}
        yield SimpleNamespace(image=t1, tissue=halves, commissures=person.commissures)

    monkeypatch.setattr("napari_pcs.anatomy.t1.segment.segment_t1", segment_t1)
    noise = np.random.default_rng(1).normal(0, 9, person.left.shape)
    scan = save("sub-eve_T1w.nii.gz", (person.brain() + noise).astype(np.float32), person.affine)
    heard = []
    state.events.event.connect(heard.append)
    open_path(scan)
    assert not state.message.is_error, state.message.text
    assert state.message.text.startswith("T1w scan: sub-eve_hemi-L.")
    assert any(isinstance(e, Step) and e.sentence == "Segmenting" for e in heard)
    assert len(session.keys()) == 2

    tissue = np.array([0, 100, 200], np.int16)[person.left]
    one_map = save("sub-kim_hemi-L_gw.nii.gz", tissue, person.affine)
    write_landmarks(cases[L], one_map)
    open_path(one_map)
    assert state.case.key.stem == "sub-kim_hemi-L"
    assert state.message.text.startswith("Grey/white map")
    assert (len(session.keys()), state.pieces) == (2, None)


def test_a_proposal_by_rule_is_shown_and_stored(viewer, state, workspace, session, settle, cases, skeletons):
    propose = workspace.panels["Predict"].propose
    propose.click()
    assert state.message.text == "There is no hemisphere to propose a PCS for. Open one first."
    state.case = replace(cases[L], commissures=None)
    propose.click()
    settle()
    assert state.message.is_error
    assert "found no AC, PC and midline" in state.message.text
    assert session.keys() == []

    state.case = cases[L]
    propose.click()
    settle()
    assert not state.message.is_error, state.message.text
    assert f"PCS {state.pcs_class}, {state.length_mm:.1f} mm" in state.message.text
    assert [layer.name for layer in viewer.layers] == ["sub-ada_hemi-L", "fold pieces", "labels"]
    labels = viewer.layers["labels"].data
    np.testing.assert_array_equal(labels > 0, skeletons[L])
    np.testing.assert_array_equal(labels == Label.PCS, state.pieces == 1)
    stored = session.load(state.case.key).labels
    assert set(stored) == {LabelRole.PROPOSED}
    np.testing.assert_array_equal(stored[LabelRole.PROPOSED].data, labels)
    assert not state.dirty


def test_a_proposal_replaces_a_prediction_in_one_step_but_no_edits_and_no_correction(
    viewer, state, workspace, settle, cases, monkeypatch
):
    predicted = np.zeros(cases[L].tissue.shape, np.uint8)
    predicted[40, 60:80, 60] = Label.PCS
    made = Provenance(manual=False, hemisphere="L")
    state.case = cases[L].with_labels(LabelRole.PREDICTED, predicted, made)
    layer, propose = viewer.layers["labels"], workspace.panels["Predict"].propose
    edit(viewer, state)
    edited = layer.data.copy()
    propose.click()
    assert state.message.is_error
    assert "not saved" in state.message.text
    np.testing.assert_array_equal(layer.data, edited)

    layer.undo()
    wait_for(lambda: not state.dirty)
    propose.click()
    settle()
    assert viewer.layers["labels"] is layer
    np.testing.assert_array_equal(layer.data == Label.PCS, state.pieces == 1)
    assert (state.dirty, state.started_from) == (False, LabelRole.PROPOSED)
    layer.undo()
    np.testing.assert_array_equal(layer.data, predicted)

    state.case = cases[L].with_labels(LabelRole.CORRECTED, predicted, made)
    propose.click()
    assert state.message.is_error
    np.testing.assert_array_equal(viewer.layers["labels"].data, predicted)

    def refuse(*_):
        raise InputError(found="no corpus callosum", expected="one above the AC-PC line")

    monkeypatch.setattr("napari_pcs.prepare.propose_pcs", refuse)
    state.case = replace(cases[L], labels=MappingProxyType({}))
    propose.click()
    settle()
    assert state.message.is_error
    assert "found no corpus callosum" in state.message.text
    assert not workspace.panels["Load"].do.has_labels
