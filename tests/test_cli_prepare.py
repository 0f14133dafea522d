import json

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_pcs.cli import app
from napari_pcs.session import Session


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def left_map(coarse_left, tmp_path):
    """A grey/white map whose sidecar knows the commissures, so that nothing is registered."""
    path = tmp_path / "maps" / "Lgrey_white_ada.nii.gz"
    path.parent.mkdir()
    tissue = coarse_left.tissue
    tissue.with_data(tissue.data * np.uint8(100)).write(path)
    sidecar = coarse_left.commissures.sidecar(np.linalg.inv(tissue.source_affine))
    path.with_name("Lgrey_white_ada.json").write_text(json.dumps(sidecar))
    return path


def test_the_json_of_prepare_keeps_its_contract(left_map, tmp_path, coarse_left, coarse_skeletons):
    result = run("prepare", left_map, "--session", tmp_path / "study", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["failed"] == []
    (case,) = record["cases"]
    assert case["case"] == "sub-ada_hemi-L"
    assert case["hemisphere"] == "L"
    assert case["input"] == "grey/white map (100, 200)"
    assert case["path"] == str(left_map)
    assert case["commissures"]["ac_mm"] == pytest.approx(coarse_left.commissures.ac_mm, abs=1e-3)
    assert case["commissures"]["pc_mm"] == pytest.approx(coarse_left.commissures.pc_mm, abs=1e-3)
    assert case["skeleton_voxels"] == int(coarse_skeletons[coarse_left.key.hemisphere].sum())
    assert case["seconds"] > 0
    assert case["skipped"] is False
    session = Session.open(tmp_path / "study")
    assert session.origin(session.keys()[0]) == str(left_map)
    assert "Extracting the skeleton of the left hemisphere" in result.stderr


def test_a_second_run_skips_what_is_there_and_force_does_not(left_map, tmp_path):
    study = tmp_path / "study"
    skipped = [
        json.loads(run("prepare", left_map, "--session", study, *more, "--json").stdout)["cases"][0]["skipped"]
        for more in ([], [], ["--force"])
    ]
    assert skipped == [False, True, False]


def test_an_input_that_fails_is_reported_and_does_not_stop_the_others(left_map, tmp_path):
    (tmp_path / "empty").mkdir()
    gone = tmp_path / "gone.nii.gz"
    result = run("prepare", gone, tmp_path / "empty", left_map, "--session", tmp_path / "study", "--json")
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert [case["case"] for case in record["cases"]] == ["sub-ada_hemi-L"]
    assert [(f["input"], f["reason"].split(",")[0]) for f in record["failed"]] == [
        (str(gone), "gone.nii.gz: found no such file"),
        (str(tmp_path / "empty"), "empty: found an empty folder"),
    ]
    assert "Traceback" not in result.output


def test_an_exchanged_side_fails_and_leaves_no_case(left_map, tmp_path, coarse_left):
    wrong = left_map.with_name("Rgrey_white_bob.nii.gz")
    wrong.write_bytes(left_map.read_bytes())
    result = run("prepare", wrong, "--session", tmp_path / "study", "--json")
    assert result.exit_code == 1
    (failed,) = json.loads(result.stdout)["failed"]
    assert "Left and right are exchanged" in failed["reason"]
    assert Session.open(tmp_path / "study").keys() == []


@pytest.mark.parametrize(
    ("side", "code", "said"),
    [("L", 0, ""), ("both", 0, ""), ("R", 1, "found hemisphere L, expected R, as chosen"), ("Q", 2, "'Q'")],
)
def test_the_side_that_was_asked_for_is_taken_or_refused(left_map, tmp_path, side, code, said):
    result = run("prepare", left_map, "--session", tmp_path / "study", "--hemisphere", side)
    assert result.exit_code == code
    assert said in result.stderr


def test_without_json_the_result_is_one_line(left_map, tmp_path):
    result = run("prepare", left_map, "--session", tmp_path / "study")
    assert result.stdout.splitlines() == [f"1 case in {tmp_path / 'study'}"]
