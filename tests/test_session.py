import errno
import json
import os
import shutil
import threading
from dataclasses import replace
from importlib.metadata import version

import nibabel as nib
import numpy as np
import pytest
from builders import affine_of, asymmetric, corrected_by, label_map, predicted_by

from napari_pcs.anatomy.tissue import recognise
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.edits import Edit
from napari_pcs.errors import InputError, SessionError
from napari_pcs.labels import Hemisphere
from napari_pcs.layout import SCHEMA_VERSION
from napari_pcs.session import Session
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
REF, PRED, CORR = LabelRole.REFERENCE, LabelRole.PREDICTED, LabelRole.CORRECTED


@pytest.fixture
def session(tmp_path):
    return Session.create(tmp_path / "study")


def content_of(root):
    """Every file of a folder with its bytes."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def predicted(case, seed=1):
    return case.with_labels(PRED, label_map(case.tissue.shape, seed=seed), predicted_by(case.key.hemisphere))


def corrected(case, before, n=20, seed=2, **provenance):
    rng = np.random.default_rng(seed)
    labels = before.copy()
    labels.ravel()[rng.choice(labels.size, n, replace=False)] = rng.integers(0, 3, n)
    return case.with_labels(CORR, labels, corrected_by(hemisphere=case.key.hemisphere, **provenance))


def replay(path, labels):
    for line in path.read_text().splitlines():
        labels = Edit.model_validate_json(line).apply(labels)
    return labels


# Making and opening


def test_a_new_session_is_a_bids_derivative(session):
    description = json.loads((session.root / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert tuple(int(n) for n in description["BIDSVersion"].split(".")) >= (1, 8, 0)
    assert description["GeneratedBy"] == [{"Name": "napari-pcs", "Version": version("napari-pcs")}]
    rows = [line.split("\t") for line in (session.root / "dseg.tsv").read_text().splitlines()]
    assert rows[0] == ["index", "name", "abbreviation", "color"]
    assert [(row[0], row[2]) for row in rows[1:]] == [
        ("0", "BG"),
        ("1", "SKEL"),
        ("2", "PCS"),
        ("3", "CS"),
        ("4", "ILS"),
    ]
    assert {len(row) for row in rows} == {4}
    described = [line.split("\t")[0] for line in (session.root / "descriptions.tsv").read_text().splitlines()]
    assert {"pred", "corr", "ref", "skel"} <= set(described)


def test_creating_a_session_twice_opens_it_and_changes_nothing(session):
    before = content_of(session.root)
    assert Session.create(session.root).root == session.root
    assert content_of(session.root) == before


def test_an_empty_folder_may_become_a_session(tmp_path):
    (tmp_path / "empty").mkdir()
    Session.create(tmp_path / "empty")
    assert Session.open(tmp_path / "empty").keys() == []


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(SessionError, match="found a folder with other files, expected an empty or a new one"):
        Session.create(tmp_path)
    assert content_of(tmp_path) == {"thesis.tex": b"do not touch"}


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", "{}", '"text"', "\x00\xff"],
    ids=["none", "empty", "cut", "list", "{}", "text", "bytes"],
)
def test_a_folder_without_a_readable_session_is_not_opened(tmp_path, content):
    if content is not None:
        (tmp_path / "session.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(SessionError, match=rf"^{tmp_path.name}: found no readable session.json, expected a session"):
        Session.open(tmp_path)


@pytest.mark.parametrize("opening", [Session.open, Session.create])
def test_a_session_of_a_newer_format_is_refused_and_left_alone(session, opening):
    path = session.root / "session.json"
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1, "new": True}))
    before = content_of(session.root)
    with pytest.raises(SessionError, match=rf"found session format {SCHEMA_VERSION + 1}, expected {SCHEMA_VERSION}"):
        opening(session.root)
    assert content_of(session.root) == before


def test_a_session_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SessionError, match="could not be written"):
        Session.create(tmp_path / "file" / "study")
    assert content_of(tmp_path) == {"file": b"in the way"}


def test_runs_get_folders_that_do_not_exist_yet(session):
    runs = []
    for _ in range(3):
        runs.append(session.new_run("tune"))
        assert not runs[-1].exists()
        runs[-1].mkdir(parents=True)
    assert len(set(runs)) == 3
    assert {run.parent for run in runs} == {session.root / "runs"}


# Cases


def test_a_case_comes_back_with_equal_arrays_affines_and_labels(session, small_case, orientation):
    case = predicted(small_case(orientation=orientation))
    case = case.with_labels(REF, label_map(case.tissue.shape, seed=4, top=4), predicted_by())
    session.add(case)
    loaded = Session.open(session.root).load(case.key)

    assert loaded.key == case.key
    for one, two in ((loaded.tissue, case.tissue), (loaded.image, case.image)):
        np.testing.assert_array_equal(one.data, two.data)
        np.testing.assert_allclose(one.affine, two.affine, atol=1e-5)
    assert set(loaded.labels) == {PRED, REF}
    for role in (PRED, REF):
        np.testing.assert_array_equal(loaded.labels[role].data, case.labels[role].data)
        assert loaded.labels[role].provenance == case.labels[role].provenance


def test_the_tissue_map_on_disk_is_one_that_can_be_recognised_again(session, small_case):
    case = small_case(hemisphere=R)
    session.add(case)
    stored = Volume.read(next(session.root.rglob("*_desc-gw_dseg.nii.gz")))
    assert np.unique(stored.data).tolist() == [0, 100, 200]
    np.testing.assert_array_equal(recognise(stored, R)[0], case.tissue.data)


def test_a_case_without_a_separate_image_shows_its_tissue(session, small_case):
    case = small_case()
    session.add(Case(case.key, case.tissue, case.tissue))
    loaded = session.load(case.key)
    assert loaded.image is loaded.tissue
    assert not list(session.root.rglob("*T1w*"))


def test_keys_of_all_cases_come_back_sorted(session, small_case):
    keys = [CaseKey("02", "", R), CaseKey("01", "post", L), CaseKey("02", "", L), CaseKey("01", "pre", R)]
    for key in keys:
        session.add(small_case(*key))
    assert Session.open(session.root).keys() == sorted(keys)
    assert [case.key for case in session.cases()] == sorted(keys)
    people = (session.root / "participants.tsv").read_text().split()
    assert people == ["participant_id", "sub-01", "sub-02"]


def test_a_session_knows_what_it_has_while_another_program_adds_and_removes(session, small_case):
    ours, theirs = Session.open(session.root), Session.open(session.root)
    key = small_case().key
    assert not ours.has(key)
    assert ours.keys() == []
    theirs.add(predicted(small_case()))
    assert ours.has(key)
    assert ours.keys() == [key]
    case = theirs.load(key)
    theirs.write_correction(corrected(case, case.labels[PRED].data), case.labels[PRED].data, 12.0)
    assert ours.corrected_keys() == [key]
    shutil.rmtree(session.root / "sub-01")
    assert not ours.has(key)
    assert ours.keys() == ours.corrected_keys() == []


def test_what_is_known_of_people_stays_in_their_list(session, small_case):
    session.add(small_case("02"))
    people = session.root / "participants.tsv"
    people.write_text("participant_id\tage\tsex\nsub-02\t31\tF\n")
    session.add(small_case("01"))
    expected = "participant_id\tage\tsex\nsub-01\tn/a\tn/a\nsub-02\t31\tF\n"
    assert people.read_text() == expected
    session.list_participants()
    assert people.read_text() == expected
    shutil.rmtree(session.root / "sub-01")
    session.list_participants()
    assert people.read_text() == "participant_id\tage\tsex\nsub-02\t31\tF\n"


def test_a_list_of_people_that_was_deleted_comes_back(session, small_case):
    session.add(small_case("02"))
    (session.root / "participants.tsv").unlink()
    session.add(small_case("02"))
    session.add(small_case("01"))
    assert (session.root / "participants.tsv").read_text().split() == ["participant_id", "sub-01", "sub-02"]


def test_programs_that_add_people_at_the_same_time_lose_none(session, small_case):
    names = [f"{n:02}" for n in range(24)]
    begin = threading.Barrier(4)

    def add(mine):
        own = Session.open(session.root)
        begin.wait()
        for name in mine:
            own.add(small_case(name))

    threads = [threading.Thread(target=add, args=(names[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (session.root / "participants.tsv").read_text().split() == ["participant_id", *(f"sub-{n}" for n in names)]


def test_adding_the_next_person_lists_no_folder(session, small_case, monkeypatch):
    session.add(small_case("01"))

    def scandir(folder):
        pytest.fail(f"listed {folder}")

    monkeypatch.setattr(os, "scandir", scandir)
    session.add(predicted(small_case("02")))
    session.add(predicted(small_case("02")))
    assert session.has(CaseKey("02", "", L))


def test_adding_a_case_again_changes_no_file(session, small_case):
    case = predicted(small_case())
    session.add(case)
    before = content_of(session.root)
    session.add(predicted(small_case(), seed=50))
    assert content_of(session.root) == before


def test_a_session_stands_by_itself_when_it_is_moved(session, small_case, write_nifti, tmp_path):
    source = write_nifti("raw/tissue.nii.gz", asymmetric(dtype=np.uint8) % 3)
    tissue = Volume.read(source)
    session.add(Case(CaseKey("01", "", L), tissue, tissue))
    shutil.rmtree(source.parent)
    session.root.rename(tmp_path / "moved")
    loaded = Session.open(tmp_path / "moved").load(CaseKey("01", "", L))
    np.testing.assert_array_equal(loaded.tissue.data, asymmetric(dtype=np.uint8) % 3)


def test_a_case_that_is_not_there_is_named(session):
    with pytest.raises(InputError, match=r"sub-09_hemi-L_space-orig_desc-gw_dseg.nii.gz: found no such file"):
        session.load(CaseKey("09", "", L))


# Predictions and corrections


def test_a_correction_is_restored_with_editor_seconds_model_and_software(session, small_case):
    case = predicted(small_case())
    session.add(case)
    before = case.labels[PRED].data
    done = corrected(case, before, editor="Zoë", seconds=73.25)
    path = session.write_correction(done, before, 12.0)

    sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))
    assert sidecar["Manual"] is True
    assert (sidecar["Editor"], sidecar["EditSeconds"]) == ("Zoë", 73.25)
    assert sidecar["Model"] == {"Name": "demo", "Digest": "ab12"}
    assert sidecar["Software"] == {"Name": "napari-pcs", "Version": version("napari-pcs")}
    loaded = Session.open(session.root).load(case.key)
    np.testing.assert_array_equal(loaded.labels[CORR].data, done.labels[CORR].data)
    assert loaded.labels[CORR].provenance == done.labels[CORR].provenance
    assert loaded.truth == (CORR, loaded.labels[CORR])
    np.testing.assert_array_equal(loaded.labels[PRED].data, before)
    assert loaded.labels[PRED].provenance.manual is False


def test_the_edit_log_replays_from_prediction_to_correction_and_back(session, small_case):
    case = predicted(small_case())
    session.add(case)
    state = case.labels[PRED].data
    for sitting in range(3):
        case = corrected(case, state, seed=10 + sitting, editor=f"editor{sitting}", seconds=10.0 * sitting)
        path = session.write_correction(case, state, 10.0 * sitting)
        state = case.labels[CORR].data
    log = path.with_name(path.name.replace("_dseg.nii.gz", "_edits.jsonl"))
    loaded = Session.open(session.root).load(case.key)

    edits = [Edit.model_validate_json(line) for line in log.read_text().splitlines()]
    assert [(edit.editor, edit.seconds) for edit in edits] == [("editor0", 0), ("editor1", 10), ("editor2", 20)]
    np.testing.assert_array_equal(replay(log, loaded.labels[PRED].data), loaded.labels[CORR].data)
    back = loaded.labels[CORR].data
    for edit in reversed(edits):
        back = edit.inverse().apply(back)
    np.testing.assert_array_equal(back, loaded.labels[PRED].data)


def test_a_correction_that_removes_everything_is_restored(session, small_case):
    case = predicted(small_case())
    session.add(case)
    before = case.labels[PRED].data
    done = case.with_labels(CORR, np.zeros_like(before), corrected_by())
    path = session.write_correction(done, before, 12.0)
    loaded = Session.open(session.root).load(case.key).labels[CORR].data
    assert loaded.shape == before.shape
    assert not loaded.any()
    assert not replay(path.with_name(path.name.replace("_dseg.nii.gz", "_edits.jsonl")), before).any()


def test_only_corrected_cases_are_listed_as_corrected(session, small_case):
    for subject in ("01", "02"):
        session.add(predicted(small_case(subject)))
    assert session.corrected_keys() == []
    case = session.load(CaseKey("02", "", L))
    session.write_correction(corrected(case, case.labels[PRED].data), case.labels[PRED].data, 12.0)
    assert session.corrected_keys() == [CaseKey("02", "", L)]


def test_a_reference_is_never_overwritten(session, small_case):
    case = small_case()
    case = case.with_labels(REF, label_map(case.tissue.shape), predicted_by())
    session.add(case)
    before = content_of(session.root)
    other = small_case().with_labels(REF, label_map(case.tissue.shape, seed=60), predicted_by())
    with pytest.raises(SessionError, match=r"desc-ref_dseg.nii.gz: found a reference already.*never overwritten"):
        session.write_labels(other, REF)
    session.add(other)
    assert content_of(session.root) == before


def test_a_prediction_may_be_written_again_without_touching_the_correction(session, small_case):
    case = predicted(small_case())
    session.add(case)
    session.write_correction(corrected(case, case.labels[PRED].data), case.labels[PRED].data, 12.0)
    before = content_of(session.root)
    new = predicted(case, seed=30)
    path = session.write_labels(new, PRED)
    after = content_of(session.root)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {
        path.relative_to(session.root).as_posix(),
        path.relative_to(session.root).as_posix()[:-7] + ".json",
    }
    np.testing.assert_array_equal(session.load(case.key).labels[PRED].data, new.labels[PRED].data)


@pytest.mark.parametrize("stored", ["RAS", "LAS", "LPI", "PIR", "ASL"])
@pytest.mark.parametrize("side", [L, R])
def test_what_a_session_holds_overlays_the_source_exactly(session, write_nifti, stored, side):
    affine = affine_of(stored, (0.7, 1.0, 1.2))
    source = write_nifti("raw/t.nii.gz", asymmetric(dtype=np.uint8) % 3, affine=affine, codes=(4, 1))
    tissue = Volume.read(source)
    case = predicted(Case(CaseKey("01", "", side), tissue, tissue))
    session.add(case)
    session.write_correction(corrected(case, case.labels[PRED].data), case.labels[PRED].data, 12.0)
    session.write_skeleton(case, case.labels[PRED].data > 0, predicted_by(side))
    probabilities = np.random.default_rng(0).random((*tissue.shape, 2)).astype(np.float32)
    session.write_probabilities(case, probabilities, predicted_by(side))

    image = nib.load(source)
    written = sorted(session.root.rglob("*.nii.gz"))
    assert len(written) == 5
    for path in written:
        labels = nib.load(path)
        assert labels.shape[:3] == image.shape
        assert f"hemi-{side.value}" in path.name
        np.testing.assert_array_equal(labels.affine, image.affine)
        for field in ("pixdim", "sform_code", "qform_code", "xyzt_units", "quatern_b", "qoffset_x"):
            np.testing.assert_array_equal(labels.header[field], image.header[field])
    skeleton = nib.as_closest_canonical(nib.load(next(session.root.rglob("*_mask.nii.gz"))))
    np.testing.assert_array_equal(np.asarray(skeleton.dataobj) == 1, case.labels[PRED].data > 0)
    channels = nib.as_closest_canonical(nib.load(next(session.root.rglob("*_probseg.nii.gz"))))
    np.testing.assert_allclose(np.asarray(channels.dataobj), probabilities, atol=5.1e-4)


# Commissures


def known(case, ac=(-30, 10, 2), source=FrameSource.CLICKS):
    found = Commissures.from_points(ac, np.subtract(ac, (1, 26, -3)), source, "by Ada", superior=(0.1, 0, 1))
    return replace(case, commissures=found)


def sidecar_of(session):
    return next(session.root.rglob("*_desc-gw_dseg.json"))


def test_the_commissures_of_a_case_come_back(session, small_case, orientation):
    case = known(small_case(orientation=orientation))
    session.add(case)
    assert Session.open(session.root).load(case.key).commissures == case.commissures
    # And as BIDS has them, in voxels of the file.
    landmarks = json.loads(sidecar_of(session).read_text())["AnatomicalLandmarkCoordinates"]
    affine = nib.load(next(session.root.rglob("*_desc-gw_dseg.nii.gz"))).affine
    for name, point in (("AC", case.commissures.ac_mm), ("PC", case.commissures.pc_mm)):
        np.testing.assert_allclose(affine[:3, :3] @ landmarks[name] + affine[:3, 3], point, atol=2e-3)


def test_a_case_without_commissures_comes_back_without(session, small_case):
    case = small_case()
    session.add(case)
    assert session.load(case.key).commissures is None
    assert not {"AnatomicalLandmarkCoordinates", "Commissures"} & json.loads(sidecar_of(session).read_text()).keys()


def test_commissures_can_be_set_replaced_and_taken_out_without_touching_anything_else(session, small_case):
    case = predicted(small_case())
    session.add(case)
    before = content_of(session.root)
    for now in (known(case), known(case, (-31, 12, 0)), case):
        session.write_commissures(now)
        assert session.load(case.key).commissures == now.commissures
        after = content_of(session.root)
        changed = {name for name in before if after[name] != before[name]}
        assert changed <= {sidecar_of(session).relative_to(session.root).as_posix()}
    assert json.loads(sidecar_of(session).read_text())["SpatialReference"] == "orig"


def test_adding_a_case_again_leaves_the_commissures_that_were_set(session, small_case):
    case = known(small_case())
    session.add(case)
    session.add(small_case())
    assert session.load(case.key).commissures == case.commissures


@pytest.mark.parametrize("content", ['{"Commissures": {"ac_mm": [0, 0]}}', '{"Commissures": 5}', "{", "[]", ""])
def test_commissures_that_are_damaged_are_refused_with_the_files_name(session, small_case, content):
    case = known(small_case())
    session.add(case)
    sidecar_of(session).write_text(content)
    with pytest.raises(InputError, match=r"sub-01_hemi-L_space-orig_desc-gw_dseg\.(json|nii\.gz): found"):
        session.load(case.key)


def test_a_damaged_sidecar_is_not_overwritten(session, small_case):
    case = known(small_case())
    session.add(case)
    sidecar_of(session).write_text("{")
    with pytest.raises(InputError, match="no readable sidecar"):
        session.write_commissures(case)
    assert sidecar_of(session).read_text() == "{"


# Damage


def _replace_labels(path, data, affine):
    nib.save(nib.Nifti1Image(data, affine), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-4]), "desc-pred_dseg.nii.gz: found .* file that is not|truncated"),
        (lambda p: p.write_bytes(b""), "Empty file"),
        (
            lambda p: _replace_labels(p, np.ones((7, 8, 10), np.uint8), affine_of("LPI")),
            r"labels of shape \(7, 8, 10\)",
        ),
        (lambda p: _replace_labels(p, np.ones((7, 8, 9), np.uint8), affine_of("LPI")), "labels whose corner lies"),
        (
            lambda p: _replace_labels(p, np.full((7, 8, 9), 9, np.uint8), affine_of("LPI", (0.7, 1.0, 1.2))),
            "found values 9",
        ),
        (lambda p: p.with_name(p.name.replace(".nii.gz", ".json")).unlink(), "no readable sidecar"),
        (lambda p: p.with_name(p.name.replace(".nii.gz", ".json")).write_text("{"), "no readable sidecar"),
    ],
    ids=["cut", "empty", "shape", "affine", "values", "no sidecar", "cut sidecar"],
)
def test_damaged_labels_are_refused(session, small_case, damage, message):
    case = predicted(small_case())
    session.add(case)
    damage(session.root / "sub-01/anat/sub-01_hemi-L_space-orig_seg-sulci_desc-pred_dseg.nii.gz")
    with pytest.raises(InputError, match=message):
        session.load(case.key)


# A disk that refuses


@pytest.fixture
def fail_at(monkeypatch):
    """Let the n-th write from now on, counted from 0, fail as if the disk were full."""

    def arm(n, code=errno.ENOSPC):
        real, left = os.fsync, [n]

        def fsync(handle):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(code, os.strerror(code))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    return arm


@pytest.mark.parametrize("write", [0, 1, 2])
def test_a_correction_on_a_full_disk_loses_nothing_and_can_be_saved_again(session, small_case, fail_at, write):
    case = predicted(small_case())
    session.add(case)
    prediction = case.labels[PRED].data
    first = corrected(case, prediction, seed=20)
    path = session.write_correction(first, prediction, 12.0)
    log = path.with_name(path.name.replace("_dseg.nii.gz", "_edits.jsonl"))
    old = content_of(session.root)
    state = first.labels[CORR].data
    second = corrected(first, state, seed=21, seconds=99)

    fail_at(write)
    with pytest.raises(SessionError, match="because the disk is full; free some space and save again"):
        session.write_correction(second, state, 12.0)

    assert content_of(session.root) == old

    session.write_correction(second, state, 12.0)
    loaded = Session.open(session.root).load(case.key)
    np.testing.assert_array_equal(loaded.labels[CORR].data, second.labels[CORR].data)
    np.testing.assert_array_equal(replay(log, prediction), second.labels[CORR].data)


# The image, the tissue map's sidecar and the map, the people, the labels' sidecar and the labels.
WRITES_OF_A_CASE = 6


def test_a_case_takes_as_many_writes_as_the_next_test_lets_fail(session, small_case, fail_at):
    case = predicted(small_case())
    fail_at(WRITES_OF_A_CASE)
    session.add(case)
    with pytest.raises(SessionError):
        session.write_labels(case, PRED)


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the folder is read-only")]
)
@pytest.mark.parametrize("write", range(WRITES_OF_A_CASE))
def test_adding_a_case_that_the_disk_refuses_can_be_repeated(session, small_case, fail_at, write, code, reason):
    case = predicted(small_case())
    fail_at(write, code)
    with pytest.raises(SessionError, match=reason):
        session.add(case)
    assert not list(session.root.rglob("*.part"))

    session.add(case)
    loaded = Session.open(session.root).load(case.key)
    np.testing.assert_array_equal(loaded.tissue.data, case.tissue.data)
    np.testing.assert_array_equal(loaded.image.data, case.image.data)
    np.testing.assert_array_equal(loaded.labels[PRED].data, case.labels[PRED].data)
    assert (session.root / "participants.tsv").read_text().split() == ["participant_id", "sub-01"]


def test_a_session_that_cannot_be_made_says_so(tmp_path, fail_at):
    fail_at(0, errno.EROFS)
    with pytest.raises(SessionError, match="the folder is read-only"):
        Session.create(tmp_path / "study")
    assert content_of(tmp_path) == {}
