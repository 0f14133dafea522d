import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from builders import affine_of, corrected_by, predicted_by, skeleton_of
from networks import CPU, look_through_a_small_box, tiny_network

from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.metrics.overlap import dice
from napari_pcs.metrics.report import compare, compare_in
from napari_pcs.pipeline import (
    evaluate,
    extract_skeleton,
    prediction_record,
    report_on,
    store_prediction,
)
from napari_pcs.predict import predict
from napari_pcs.provenance import ModelReference
from napari_pcs.session import Session
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
REF, PRED, CORR = LabelRole.REFERENCE, LabelRole.PREDICTED, LabelRole.CORRECTED
SHAPE = (9, 30, 12)
MODEL = ModelReference(name="tiny", digest="ab12")


def sheet(start=3, stop=27, at=4):
    """Sheet of skeleton along y, with a PCS in its middle third."""
    data = np.zeros(SHAPE, np.uint8)
    data[at, start:stop, 3:9] = 1
    data[at, 10:20, 3:6] = 2
    return data


def write(path, data, zooms=(1.0, 1.0, 1.0), orientation="RAS"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Volume.from_array(data, affine_of(orientation, zooms)).write(path)
    return path


def case_of(subject="01", side=L):
    tissue = Volume.from_array(np.full(SHAPE, 2, np.uint8), affine_of("LPI", (0.8, 1.0, 1.2)))
    return Case(CaseKey(subject, "", side), tissue, tissue, MappingProxyType({}))


def spacing_in(session):
    """Spacing as the files have it, in single precision."""
    found = session.load(session.keys()[0]).tissue.spacing
    assert found == pytest.approx((0.8, 1.0, 1.2), abs=1e-6)
    return found


def unlabelled(case):
    return replace(case, labels=MappingProxyType({}))


# Evaluating


def test_two_files_are_compared_whatever_they_are_called(tmp_path):
    ours, theirs = sheet(), sheet(start=9)
    found = evaluate(write(tmp_path / "a.nii.gz", ours), write(tmp_path / "b.nii", theirs))
    (report,) = found.cases
    assert report.case == "a"
    assert report == compare("a", ours, theirs, (1.0, 1.0, 1.0))
    assert found.mean["skeleton"]["dice"] == pytest.approx(2 * 108 / (144 + 108))


def test_two_files_are_compared_in_world_space_and_mm(tmp_path):
    flipped = Volume.from_array(sheet(), affine_of("RAS", (0.5, 2.0, 1.5)))
    path = tmp_path / "b.nii.gz"
    # The same image with its first axis stored the other way round.
    affine = flipped.affine @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    Volume.from_array(flipped.data[::-1], affine).write(path)
    ours = write(tmp_path / "a.nii.gz", sheet(at=6), (0.5, 2.0, 1.5))
    (report,) = evaluate(ours, path).cases
    assert report.labels["skeleton"].hd_mm == pytest.approx(2 * 0.5)
    assert report.labels["skeleton"].dice == 0


def test_folders_are_matched_by_case_and_strangers_are_left_out(tmp_path):
    for name, data in (("sub-1_hemi-L_x", sheet()), ("sub-1_hemi-R_x", sheet(at=5)), ("sub-2_hemi-L_x", sheet())):
        write(tmp_path / "ours" / f"{name}.nii.gz", data)
    for name in ("sub-1_hemi-L_y", "sub-1_hemi-R_y", "sub-3_hemi-L_y"):
        write(tmp_path / "theirs" / "deep" / f"{name}.nii", sheet())
    found = evaluate(tmp_path / "ours", tmp_path / "theirs")
    assert [(r.case, r.labels["skeleton"].dice) for r in found.cases] == [("sub-1_hemi-L", 1), ("sub-1_hemi-R", 0)]
    back = evaluate(tmp_path / "theirs", tmp_path / "ours")
    assert back.mean["skeleton"] == found.mean["skeleton"]


def test_names_that_do_not_say_the_side_are_matched_as_they_are(tmp_path):
    write(tmp_path / "ours" / "ada.nii.gz", sheet())
    write(tmp_path / "theirs" / "ada.nii", sheet())
    assert [r.case for r in evaluate(tmp_path / "ours", tmp_path / "theirs").cases] == ["ada"]


@pytest.fixture
def session(tmp_path):
    """Case 01 with all three roles, 02 with a prediction and a reference, 03 with a prediction only."""
    session = Session.create(tmp_path / "study")
    roles = {
        "01": {PRED: sheet(), CORR: sheet(start=9), REF: sheet(at=7)},
        "02": {PRED: sheet(), REF: sheet(start=15)},
        "03": {PRED: sheet()},
    }
    for subject, labels in roles.items():
        case = case_of(subject)
        for role, data in labels.items():
            case = case.with_labels(role, data, corrected_by() if role is CORR else predicted_by())
        session.add(case)
        for extra in ("desc-skel_mask", "desc-pred_probseg"):
            name = f"sub-{subject}/anat/sub-{subject}_hemi-L_{extra}.nii.gz"
            write(session.root / name, sheet(at=1))
    return session


def test_a_session_is_judged_by_its_corrections(session):
    found = evaluate(session.root, session.root)
    assert [r.case for r in found.cases] == ["sub-01_hemi-L", "sub-02_hemi-L"]
    assert found.cases[0] == compare("sub-01_hemi-L", sheet(), sheet(start=9), spacing_in(session))


def test_a_case_without_a_correction_is_judged_by_its_reference(session):
    found = evaluate(session.root, session.root)
    assert found.cases[1] == compare("sub-02_hemi-L", sheet(), sheet(start=15), spacing_in(session))


def test_a_session_may_be_judged_by_a_folder_of_label_maps(session, tmp_path):
    theirs = tmp_path / "rater"
    Volume.from_array(case_of().tissue.data * 0 + sheet(at=2), case_of().tissue.affine).write(tmp_path / "x.nii.gz")
    theirs.mkdir()
    shutil.move(tmp_path / "x.nii.gz", theirs / "sub-03_hemi-L_rater.nii.gz")
    (report,) = evaluate(session.root, theirs).cases
    assert report.case == "sub-03_hemi-L"
    assert report.labels["skeleton"].hd_mm == pytest.approx(2 * 0.8)


def test_folders_without_a_common_case_are_refused_with_their_counts(tmp_path):
    write(tmp_path / "ours" / "sub-1_hemi-L.nii.gz", sheet())
    write(tmp_path / "theirs" / "sub-1_hemi-R.nii.gz", sheet())
    write(tmp_path / "theirs" / "sub-2_hemi-L.nii.gz", sheet())
    with pytest.raises(InputError, match="found 1 predicted and 2 reference cases with none in common"):
        evaluate(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize("zooms", [(1.0, 1.0, 1.3), (2.0, 1.0, 1.0)])
def test_a_pair_on_two_grids_is_refused(tmp_path, zooms):
    with pytest.raises(InputError, match=r"a\.nii\.gz: found predicted labels"):
        evaluate(write(tmp_path / "a.nii.gz", sheet(), zooms), write(tmp_path / "b.nii.gz", sheet()))
    with pytest.raises(InputError, match="predicted labels"):
        evaluate(write(tmp_path / "c.nii.gz", sheet()[:-1]), write(tmp_path / "b.nii.gz", sheet()))


def test_what_is_no_label_map_or_not_there_is_refused(tmp_path):
    good, scan = write(tmp_path / "a.nii.gz", sheet()), write(tmp_path / "b.nii.gz", sheet() * np.uint8(40))
    with pytest.raises(InputError, match="found values 0, 40, 80"):
        evaluate(good, scan)
    for pair in ((tmp_path / "none", tmp_path), (good, tmp_path / "none")):
        with pytest.raises(InputError, match="found no such folder"):
            evaluate(*pair)


# Reporting on one case


def test_a_prediction_is_compared_with_the_correction_first(coarse_left):
    truth = coarse_left.labels[REF].data
    correction = np.where(truth == 2, 1, truth).astype(np.uint8)
    case = coarse_left.with_labels(CORR, correction, corrected_by())
    against, report = report_on(case, truth)
    assert against == "correction"
    assert report == compare_in(case, truth, correction)
    assert report.labels["pcs"].outcome == "one_empty"


def test_then_with_the_reference(coarse_left):
    truth = coarse_left.labels[REF].data
    against, report = report_on(coarse_left, truth)
    assert against == "reference"
    assert report.labels["pcs"].dice == 1
    assert report.reference_class == report.pcs_class == "present"


def test_and_else_with_the_extracted_skeleton_and_nothing_is_said_of_the_pcs(coarse_left, coarse_skeletons):
    truth = coarse_left.labels[REF].data
    against, report = report_on(unlabelled(coarse_left), truth)
    assert against == "skeleton extracted from the tissue map"
    assert report.labels.keys() == {"skeleton"}
    assert report.labels["skeleton"].dice == dice(truth > 0, coarse_skeletons[L])
    assert 0 < report.labels["skeleton"].dice < 1
    assert (report.reference_length_mm, report.length_error_mm, report.reference_class) == (None, None, None)
    assert report.length_mm > 50


def test_the_skeleton_comes_from_the_tissue_alone(coarse_left, coarse_right):
    for case in (coarse_left, coarse_right):
        np.testing.assert_array_equal(extract_skeleton(unlabelled(case)), skeleton_of(case))


# Predicting and storing


@pytest.fixture(scope="module")
def predicted(coarse_right):
    with pytest.MonkeyPatch.context() as patch:
        look_through_a_small_box(patch)
        return predict(unlabelled(coarse_right), tiny_network(), MODEL, CPU)


def test_a_stored_prediction_comes_back_from_the_session(tmp_path, coarse_right, predicted):
    session = Session.create(tmp_path / "study")
    case, paths = store_prediction(session, unlabelled(coarse_right), predicted)
    loaded = session.load(case.key)
    np.testing.assert_array_equal(loaded.tissue.data, coarse_right.tissue.data)
    for one in (case, loaded):
        np.testing.assert_array_equal(one.labels[PRED].data, predicted.labels)
        assert one.labels[PRED].provenance.model == MODEL
        assert set(one.labels) == {PRED}
    np.testing.assert_array_equal(Volume.read(paths["labels"]).data, predicted.labels)
    sidecar = Path(paths["probabilities"].replace(".nii.gz", ".json"))
    assert json.loads(sidecar.read_text())["LabelMap"] == ["skeleton", "PCS"]


def test_probabilities_are_written_for_both_channels_to_three_digits(tmp_path, coarse_right, predicted):
    import nibabel as nib

    _, paths = store_prediction(Session.create(tmp_path / "study"), unlabelled(coarse_right), predicted)
    stored = np.asarray(nib.load(paths["probabilities"]).dataobj)
    np.testing.assert_allclose(stored, predicted.probabilities, atol=5.1e-4)


def test_storing_again_replaces_the_prediction_and_keeps_the_correction(tmp_path, coarse_right, predicted):
    session = Session.create(tmp_path / "study")
    case, _ = store_prediction(session, unlabelled(coarse_right), predicted)
    corrected = case.with_labels(CORR, coarse_right.labels[REF].data, corrected_by(hemisphere=R))
    session.write_correction(corrected, predicted.labels, seconds=3.0)
    store_prediction(session, unlabelled(coarse_right), predicted)
    assert session.corrected_keys() == [case.key]
    np.testing.assert_array_equal(session.load(case.key).labels[CORR].data, coarse_right.labels[REF].data)


def test_the_record_of_a_prediction_is_json_whose_times_add_up(coarse_right, predicted):
    record = json.loads(json.dumps(prediction_record(coarse_right, predicted, read_s=1.25)))
    timings = record["timings_s"]
    total = timings.pop("total")
    assert set(timings) == {"read", "prepare", "network", "postprocess"}
    assert sum(timings.values()) == pytest.approx(total)
    assert total == pytest.approx(1.25 + predicted.timings_s["total"])
    assert record["case"] == coarse_right.key.stem
    assert record["hemisphere"] == "R"
    assert record["outputs"] is None
    assert record["length_mm"] == predicted.measurement.length_mm
    assert (record["preset"], record["commissures"]) == ("default", "world")


def test_the_record_of_a_prediction_whose_commissures_nobody_knows_has_no_length(coarse_right, predicted):
    unknown = replace(coarse_right, commissures=None)
    record = json.loads(json.dumps(prediction_record(unknown, replace(predicted, measurement=None), read_s=0.5)))
    assert [record[key] for key in ("length_mm", "class", "gaps_mm", "preset", "commissures")] == [None] * 5
    assert sum(record["class_probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_two_files_are_measured_where_one_of_them_knows_its_commissures(tmp_path):
    first, second = write(tmp_path / "a.nii.gz", sheet()), write(tmp_path / "b.nii.gz", sheet(start=9))
    assert evaluate(first, second).cases[0].length_mm is None
    known = {"AnatomicalLandmarkCoordinates": {"AC": [4, 25, 3], "PC": [4, 0, 3]}}
    (tmp_path / "b.json").write_text(json.dumps(known))
    (report,) = evaluate(first, second).cases
    # Ten voxels of PCS along y in both.
    assert report.length_mm == report.reference_length_mm == pytest.approx(9.5, abs=0.3)
    assert (tmp_path / "b.json").rename(tmp_path / "a.json")
    assert evaluate(first, second).cases[0] == report
