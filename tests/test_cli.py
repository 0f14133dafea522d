import csv
import json
import shutil
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import typer
from builders import affine_of, skeleton_of, write_landmarks
from networks import look_through_a_small_box, tiny_model
from solids import ARC_MM, arc
from typer.testing import CliRunner

from napari_pcs import cohort_prediction, doctor
from napari_pcs.anatomy import location
from napari_pcs.anatomy.preset import find_preset, preset_names
from napari_pcs.case import LabelRole
from napari_pcs.cli import app
from napari_pcs.cli import predict as predict_module
from napari_pcs.errors import CancelledError, InputError
from napari_pcs.metrics.report import Summary
from napari_pcs.models.folders import list_models
from napari_pcs.session import Session
from napari_pcs.volume import Volume

COMMANDS = ("demo", "doctor", "prepare", "skeleton", "measure", "presets", "predict", "tune", "evaluate", "models")
FIGURES = {"dice", "nsd_1mm", "hd_mm", "hd95_mm", "assd_mm", "cldice"}
PRED, CORR = LabelRole.PREDICTED, LabelRole.CORRECTED


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def succeed(*arguments):
    """Run a command with --json; stdout is one JSON object and nothing else."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fails(result, *said):
    """Say whether a command failed with one sentence on stderr and nothing else."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for part in said:
        assert part in line
    assert "Traceback" not in result.output
    return True


@pytest.fixture
def no_display(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


def write_map(case, path):
    """Write a case as the grey/white map of 100 and 200 that other programs make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    case.tissue.with_data(case.tissue.data * np.uint8(100)).write(path)
    write_landmarks(case, path)
    return path


@pytest.fixture(scope="module")
def left_map(coarse_left, tmp_path_factory):
    return write_map(coarse_left, tmp_path_factory.mktemp("maps") / "Lgrey_white_ada.nii.gz")


@pytest.fixture(scope="module")
def predicted(left_map, tmp_path_factory):
    """A whole hemisphere, predicted for real: the JSON, the session and the model."""
    root = tmp_path_factory.mktemp("predicted")
    model = tiny_model(root, "mine")
    return succeed("predict", left_map, "--out", root / "study", "--model", model.path), root / "study", model


# Help and versions


def test_help_lists_every_command_with_what_it_does():
    result = run("--help")
    assert result.exit_code == 0
    listed = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.startswith("  ")}
    for name in COMMANDS:
        assert len(listed[name]) > 3


@pytest.mark.parametrize(
    "command",
    [*([name] for name in COMMANDS if name not in {"models", "presets"}), ["models", "list"], ["presets", "list"]],
)
def test_every_command_has_help_and_can_print_json(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert f" {command[-1]} [OPTIONS]" in result.stdout


def test_the_installed_program_says_its_version():
    done = subprocess.run([sys.executable, "-m", "napari_pcs", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version("napari-pcs")
    assert done.stderr == ""


def test_at_its_end_a_command_does_not_look_through_everything_again():
    script = """
import sys
from napari_pcs.cli import main
class Circle:
    def __init__(self): self.itself = self
    def __del__(self): print("looked through")
circle = Circle()
sys.argv = ["napari-pcs", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [version("napari-pcs")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["predict"],
        ["predict", "a.nii"],
        ["predict", "a.nii", "--out", "x", "--hemisphere", "Q"],
        ["skeleton", "a.nii"],
        ["measure"],
        ["measure", "a.nii", "--frame", "moon"],
        ["measure", "a.nii", "--label", "0"],
        ["presets", "show"],
        ["evaluate", "--predicted", "x"],
        ["tune"],
        ["models", "list", "--colour"],
    ],
    ids=" ".join,
)
def test_a_command_that_is_typed_wrong_is_a_usage_error(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage:" in result.stderr or "Error" in result.stderr
    assert isinstance(result.exception, SystemExit)


# skeleton


def test_skeleton_writes_the_mask_of_the_extracted_skeleton(left_map, tmp_path, coarse_left, coarse_skeletons):
    out = tmp_path / "skel.nii.gz"
    record = succeed("skeleton", left_map, out)
    mask = Volume.read(out)
    expected = coarse_skeletons[coarse_left.key.hemisphere]
    np.testing.assert_array_equal(mask.data, expected)
    np.testing.assert_allclose(mask.affine, coarse_left.tissue.affine, atol=1e-5)
    assert record["voxels"] == int(expected.sum())
    assert (record["case"], record["output"]) == ("sub-ada_hemi-L", str(out))
    assert record["input"] == "grey/white map (100, 200)"
    assert record["seconds"] > 0


def test_skeleton_takes_the_side_where_the_name_does_not_say_it(tmp_path, coarse_right):
    source = write_map(coarse_right, tmp_path / "someone.nii.gz")
    assert fails(run("skeleton", source, tmp_path / "a.nii"), "someone.nii.gz")
    assert not (tmp_path / "a.nii").exists()
    record = succeed("skeleton", source, tmp_path / "a.nii", "--hemisphere", "R")
    assert record["case"] == "sub-someone_hemi-R"
    np.testing.assert_array_equal(Volume.read(tmp_path / "a.nii").data, skeleton_of(coarse_right))


def test_without_json_the_result_is_one_line_of_text(left_map, tmp_path):
    result = run("skeleton", left_map, tmp_path / "a.nii.gz")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert "skeleton voxels from a grey/white map" in line


# measure


@pytest.fixture
def arc_file(tmp_path):
    """Label map of an arc of 66.3 mm, 8 mm to the left of the midline and above the AC, with its grid."""
    solid = arc(2.0, 6.0)
    low = solid.index.min(axis=0) - 2
    labels = np.zeros(solid.index.max(axis=0) - low + 3, np.uint8)
    labels[tuple((solid.index - low).T)] = 2
    affine = np.eye(4)
    affine[:3, 3] = -8 - labels.shape[0], -20, 13

    def write(name="arc.nii.gz", data=labels):
        Volume.from_array(data, affine).write(tmp_path / name)
        return tmp_path / name

    write.labels, write.affine = labels, affine
    return write


def test_the_json_of_measure_keeps_its_contract(arc_file):
    found = succeed("measure", arc_file(), "--frame", "world")
    keys = {"length_mm", "class", "prominence", "preset", "pieces", "gaps_mm", "extent_mm", "notes", "commissures"}
    assert set(found) == keys
    assert found["length_mm"] == pytest.approx(ARC_MM, rel=0.02)
    assert (found["class"], found["preset"], found["gaps_mm"], found["notes"]) == ("present", "default", [], [])
    (piece,) = found["pieces"]
    assert {"id", "length_mm"} <= set(piece)
    assert (piece["id"], piece["length_mm"]) == (1, found["length_mm"])
    index = np.argwhere(arc_file.labels == 2) + arc_file.affine[:3, 3]
    (_, posterior, inferior), (_, anterior, superior) = index.min(axis=0), index.max(axis=0)
    expected = {"anterior": anterior, "posterior": posterior, "superior": superior, "inferior": inferior}
    assert found["extent_mm"] == pytest.approx(expected)
    assert found["commissures"]["source"] == "world"


def test_measure_says_the_same_in_one_line_of_text(arc_file):
    result = run("measure", arc_file(), "--frame", "world")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert line.endswith("mm in 1 pieces: present by preset default")
    gap = arc_file.labels.copy()
    gap[:, 25:32] = 0
    assert ", bridging " in run("measure", arc_file("gap.nii.gz", gap), "--frame", "world").stdout


def test_measure_takes_the_frame_that_the_file_knows(arc_file):
    path = arc_file()
    origin = arc_file.affine[:3, 3]
    landmarks = {"AC": (np.array([0, 5, 0]) - origin).tolist(), "PC": (np.array([0, -20, 0]) - origin).tolist()}
    (path.parent / "arc.json").write_text(json.dumps({"AnatomicalLandmarkCoordinates": landmarks}))
    found, world = succeed("measure", path), succeed("measure", path, "--frame", "world")
    assert found["length_mm"] == pytest.approx(world["length_mm"])
    assert found["extent_mm"]["anterior"] == pytest.approx(world["extent_mm"]["anterior"] - 5, abs=1e-3)
    assert found["commissures"]["source"] == "file"


def test_measure_finds_the_frame_of_a_prediction_in_its_session(predicted):
    found, _, _ = predicted
    (case,) = found["cases"]
    assert succeed("measure", case["outputs"]["labels"])["length_mm"] == pytest.approx(case["length_mm"])


def test_measure_aligns_the_tissue_map_where_it_is_given(coarse_left, left_map, tmp_path):
    labels = tmp_path / "labels.nii.gz"
    coarse_left.tissue.with_data(coarse_left.labels[LabelRole.REFERENCE].data).write(labels)
    assert fails(run("measure", labels), "no AC, PC and midline")
    assert succeed("measure", labels, "--tissue", left_map)["length_mm"] == pytest.approx(60, abs=1.5)


def test_measure_without_a_frame_is_refused_with_what_to_do(arc_file):
    for arguments in ((), ("--json",)):
        result = run("measure", arc_file(), *arguments)
        assert fails(result, "found no AC, PC and midline", "two clicks", "tissue map", "already AC-PC aligned")


@pytest.mark.parametrize(("label", "length"), [(1, ARC_MM), (7, ARC_MM), (2, 0)])
def test_measure_takes_the_label_asked_for(arc_file, label, length):
    path = arc_file("mask.nii.gz", (arc_file.labels // 2 * (1 if label == 2 else label)).astype(np.uint8))
    found = succeed("measure", path, "--label", label, "--frame", "world")
    assert found["length_mm"] == pytest.approx(length, rel=0.02)


def test_a_mask_of_0_and_1_is_refused_with_advice_unless_its_name_says_that_it_is_a_label_map(arc_file):
    mask = (arc_file.labels > 0).astype(np.uint8)
    found = run("measure", arc_file("skeleton.nii.gz", mask), "--frame", "world")
    assert fails(found, "skeleton.nii.gz: found a skeleton or a mask", "--label 1", "--label 2")
    absent = succeed("measure", arc_file("sub-1_hemi-L_desc-corr_dseg.nii.gz", mask), "--frame", "world")
    assert (absent["length_mm"], absent["class"], absent["extent_mm"]) == (0, "absent", None)


def test_a_skeleton_of_morphologist_and_a_scan_are_refused(arc_file):
    for value in (60, 110):
        data = (arc_file.labels // 2 * value + 11 * (arc_file.labels == 0)).astype(np.int16)
        result = run("measure", arc_file("Lskeleton_x.nii.gz", data), "--frame", "world")
        assert fails(result, "Lskeleton_x.nii.gz: found", "Morphologist")
    scan = np.random.default_rng(0).random(arc_file.labels.shape).astype(np.float32)
    path = arc_file("scan.nii.gz", scan)
    assert fails(run("measure", path, "--frame", "world", "--label", "1"), "scan.nii.gz", "not whole numbers")


def test_measure_follows_the_preset_asked_for(arc_file, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text('{"name": "mine", "citation": "ours", "small_from_mm": 50, "present_from_mm": 100}')
    found = succeed("measure", arc_file(), "--frame", "world", "--preset", mine)
    assert (found["preset"], found["class"]) == ("mine", "small")
    arguments = ("measure", arc_file(), "--frame", "world", "--preset")
    assert fails(run(*arguments, "intralimbic-first"), "no cingulate sulcus in the label map")
    assert fails(run(*arguments, "older"), "no preset 'older'", "default, intralimbic-first")
    with_cingulate = arc_file.labels.copy()
    with_cingulate[:, :10, 0] = 3
    result = run("measure", arc_file("c.nii.gz", with_cingulate), "--frame", "world", "--preset", "intralimbic-first")
    assert "No intralimbic sulcus is labelled" in result.stdout.splitlines()[1]


# presets


def test_presets_are_listed_with_their_sources_the_default_first():
    found = succeed("presets", "list")["presets"]
    assert [p["name"] for p in found] == list(preset_names())
    for preset in found:
        assert preset["citation"] == find_preset(preset["name"]).citation
    lines = run("presets", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(preset_names())


def test_a_preset_that_is_shown_can_be_saved_and_used(tmp_path):
    shown = run("presets", "show", "sagittal")
    assert shown.exit_code == 0
    (tmp_path / "copy.json").write_text(shown.stdout)
    assert find_preset(str(tmp_path / "copy.json")) == find_preset("sagittal")
    assert fails(run("presets", "show", "none"), "no preset 'none'")


# predict


def test_a_hemisphere_that_cannot_be_aligned_is_predicted_without_a_length(monkeypatch, small_box, left_map, tmp_path):
    def refuse(*_):
        raise InputError(found="noise", expected="a hemisphere")

    monkeypatch.setattr(location, "register", refuse)
    source = shutil.copy(left_map, tmp_path / left_map.name)  # and not its landmarks
    model = tiny_model(tmp_path, "mine")
    result = run("predict", source, "--out", tmp_path / "study", "--model", model.path, "--json")
    assert result.exit_code == 0
    (case,) = json.loads(result.stdout)["cases"]
    assert [case[key] for key in ("length_mm", "class", "gaps_mm", "commissures")] == [None] * 4
    assert set(case["class_probabilities"]) == {"absent", "small", "present"}
    assert "PCS not measured: no AC and PC" in result.stderr


def test_the_json_of_predict_keeps_its_contract(predicted):
    found, _, model = predicted
    assert list(found) == ["cases", "failed"]
    (case,) = found["cases"]
    assert {
        "case",
        "hemisphere",
        "class",
        "class_probabilities",
        "length_mm",
        "uncertainty",
        "timings_s",
        "peak_memory_mb",
        "device",
        "model",
        "outputs",
    } <= set(case)
    assert (case["case"], case["hemisphere"], case["device"]) == ("sub-ada_hemi-L", "L", "cpu")
    assert set(case["class_probabilities"]) == {"absent", "small", "present"}
    assert sum(case["class_probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert case["class"] in case["class_probabilities"]
    assert case["model"] == {"name": "mine", "digest": model.digest}
    assert set(case["timings_s"]) == {"read", "prepare", "network", "postprocess", "total"}
    total = case["timings_s"].pop("total")
    assert sum(case["timings_s"].values()) == pytest.approx(total)
    assert set(case["outputs"]) == {"labels", "probabilities"}


def test_predict_writes_a_session_that_holds_what_it_reports(predicted, coarse_left):
    found, root, model = predicted
    session = Session.open(root)
    (key,) = session.keys()
    case = session.load(key)
    np.testing.assert_array_equal(case.tissue.data, coarse_left.tissue.data)
    labels = case.labels[PRED]
    assert labels.provenance.model.digest == model.digest
    outputs = found["cases"][0]["outputs"]
    np.testing.assert_array_equal(Volume.read(outputs["labels"]).data, labels.data)


def test_predict_takes_several_hemispheres_and_reports_progress_on_stderr(small_box, left_map, tmp_path, coarse_right):
    model = tiny_model(tmp_path, "mine")
    right = write_map(coarse_right, tmp_path / "Rgrey_white_ada.nii.gz")
    result = run("predict", left_map, right, "--out", tmp_path / "study", "--model", model.path, "--json")
    assert result.exit_code == 0
    cases = json.loads(result.stdout)["cases"]
    assert [c["case"] for c in cases] == ["sub-ada_hemi-L", "sub-ada_hemi-R"]
    names = [line.split(":")[0] for line in result.stderr.splitlines()]
    steps = {"Lgrey_white_ada.nii.gz", "Rgrey_white_ada.nii.gz"}
    assert [name for name in names if name not in steps] == ["sub-ada_hemi-L", "sub-ada_hemi-R"]
    sides = [Volume.read(c["outputs"]["labels"]).data for c in cases]
    # Coarser than the network's grid, the two are mirrored but for a rounding at the threshold.
    assert (sides[0][::-1] == sides[1]).mean() > 0.999
    assert cases[0]["class_probabilities"] == pytest.approx(cases[1]["class_probabilities"], abs=1e-3)


def test_predict_finds_the_models_of_its_own_session(small_box, left_map, tmp_path):
    session = Session.create(tmp_path / "study")
    model = tiny_model(session.models, "ours")
    found = succeed("predict", left_map, "--out", session.root, "--model", "ours")
    assert found["cases"][0]["model"]["digest"] == model.digest


# Errors


def test_a_bad_file_is_one_sentence_and_no_traceback(tmp_path):
    bad = tmp_path / "Lgrey_white_x.nii.gz"
    bad.write_bytes(b"not an image")
    for arguments in (("predict", bad, "--out", tmp_path / "s"), ("skeleton", bad, tmp_path / "o.nii")):
        assert fails(run(*arguments), "Lgrey_white_x.nii.gz: found", "expected")
        assert fails(run(*arguments, "--json"), "Lgrey_white_x.nii.gz: found")


def test_each_thing_that_is_missing_is_named(tmp_path, left_map):
    out = ("--out", tmp_path / "s")
    assert fails(run("predict", tmp_path / "Lgrey_white_x.nii", *out), "found no such file")
    assert fails(run("predict", left_map, *out, "--model", "none"), "Model none: found no model", "starter")
    assert fails(run("predict", left_map, *out, "--device", "tpu"), "Device tpu")
    assert fails(run("models", "list", "--session", tmp_path / "none"), "session.json")
    assert fails(run("evaluate", "--predicted", tmp_path / "a", "--reference", tmp_path / "b"), "no such folder")
    assert fails(run("demo", "--no-gui", "--sample", "moon"), "moon", "phantom-60mm")


def test_a_folder_with_other_files_is_left_alone(tmp_path, left_map):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert fails(run("predict", left_map, "--out", tmp_path / "mine"), "found a folder with other files")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_error_that_nobody_expected_is_not_dressed_up(monkeypatch, left_map, tmp_path):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(cohort_prediction, "predict_steps", fail)
    result = run("predict", left_map, "--out", tmp_path / "s")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "said"), [(KeyboardInterrupt(), "Cancelled."), (CancelledError("Gone."), "Cancelled: 0 predictions in")]
)
def test_cancelling_ends_with_a_word_and_code_1(monkeypatch, left_map, tmp_path, error, said):
    def cancel(*_, **__):
        raise error

    monkeypatch.setattr(cohort_prediction, "predict_steps", cancel)
    result = run("predict", left_map, "--out", tmp_path / "s")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith(said)


# demo


def test_demo_without_a_display_says_so_and_offers_to_go_without_a_window(no_display):
    assert fails(run("demo"), "no display", "--no-gui")


def test_demo_without_a_window_predicts_and_compares_with_the_samples_own_labels(no_display, small_box):
    found = succeed("demo", "--no-gui", "--sample", "phantom-30mm")
    assert found["case"] == "sub-phantom30mm_hemi-L"
    assert found["outputs"] is None
    report = found["evaluate"]
    assert report["against"] == "reference"
    assert set(report["labels"]) == {"skeleton", "pcs"}
    assert set(report["labels"]["pcs"]) >= FIGURES
    assert report["reference_length_mm"] == pytest.approx(30, abs=1.5)
    assert report["length_mm"] == found["length_mm"]
    assert report["length_error_mm"] == pytest.approx(found["length_mm"] - report["reference_length_mm"])


@pytest.mark.parametrize("text", ["1280", "1280x", "x800", "1280x800x2", "-1x5", "wide"])
def test_a_window_size_that_is_none_is_a_usage_error(text):
    assert predict_module._size("1280x800") == (1280, 800)
    with pytest.raises(typer.BadParameter, match="expected WIDTHxHEIGHT"):
        predict_module._size(text)


# evaluate, models, doctor


@pytest.fixture
def label_files(tmp_path):
    """Two label maps: 5 x 8 voxels of skeleton each, half of them shared; no PCS."""
    paths = []
    for name, start in (("a", 2), ("b", 6)):
        data = np.zeros((9, 20, 12), np.uint8)
        data[4, start : start + 8, 3:8] = 1
        paths.append(tmp_path / f"{name}.nii.gz")
        Volume.from_array(data, affine_of("LPI")).write(paths[-1])
    return paths


def test_the_json_of_evaluate_keeps_its_contract(label_files):
    found = succeed("evaluate", "--predicted", label_files[0], "--reference", label_files[1])
    (case,) = found["cases"]
    assert {"case", "labels", "length_error_mm"} <= set(case)
    assert set(case["labels"]["skeleton"]) >= FIGURES
    assert case["labels"]["skeleton"]["dice"] == 0.5
    assert case["labels"]["skeleton"]["hd_mm"] == 4
    # Missing is null and not 0.
    assert case["labels"]["pcs"]["dice"] is None
    assert found["mean"]["pcs"] == dict.fromkeys(FIGURES)
    assert found["counts"] == {"both_empty": 1, "one_empty": 0, "compared": 0}
    assert Summary.model_validate(found).cases[0].case == "a"


def test_evaluate_writes_the_same_table_that_it_prints(label_files, tmp_path):
    tsv = tmp_path / "out" / "table.tsv"
    result = run("evaluate", "--predicted", label_files[0], "--reference", label_files[1], "--tsv", tsv)
    assert result.exit_code == 0
    assert result.stdout == tsv.read_text()
    with tsv.open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [(row["label"], row["dice"], row["hd_mm"]) for row in rows] == [
        ("skeleton", "0.5000", "4.0000"),
        ("pcs", "n/a", "n/a"),
    ]


def test_models_are_listed_with_those_of_a_session(tmp_path):
    session = Session.create(tmp_path / "study")
    ours = tiny_model(session.models, "ours")
    shipped = succeed("models", "list")["models"]
    assert "starter" in [m["name"] for m in shipped]
    found = succeed("models", "list", "--session", session.root)["models"]
    assert found == [*shipped, {"name": "ours", "digest": ours.digest, "path": str(ours.path), "base": None}]
    assert run("models", "list", "--session", session.root).stdout.splitlines()[-1].split()[0] == "ours"


def test_doctor_says_what_is_installed_and_what_can_compute(no_display):
    found = succeed("doctor")
    for name in ("torch", "monai", "nibabel"):
        assert found["packages"][name] == version(name)
    assert found["devices"][-1]["name"] == "cpu"
    assert found["devices"][-1]["free_memory_mb"] > 0
    assert [m["name"] for m in found["models"]] == [m.name for m in list_models()]
    assert found["display"] is False
    assert any("--no-gui" in sentence for sentence in found["advice"])
    text = run("doctor").stdout
    assert all(f"* {sentence}" in text for sentence in found["advice"])


def test_doctor_gives_advice_on_what_is_missing_and_on_nothing_else(monkeypatch):
    monkeypatch.setattr(doctor, "has_display", lambda: True)
    monkeypatch.setattr(doctor, "find_spec", lambda _: object())
    assert doctor._advice(["cuda", "cpu"], {"napari": "0.9.1", "antspyx": "0.6"}) == []
    assert "GPU" in doctor._advice(["cpu"], {"napari": "0.9.1", "antspyx": "0.6"})[0]
    assert "0.9.1" in doctor._advice(["cuda", "cpu"], {"napari": "0.9.0", "antspyx": "0.6"})[0]
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert "napari[pyqt6]" in doctor._advice(["cuda", "cpu"], {"napari": None, "antspyx": "0.6"})[0]
    assert "napari-pcs[t1]" in doctor._advice(["cuda"], {"napari": "0.9.1", "antspyx": None})[-1]


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", (), False),
        ("linux", ("DISPLAY",), True),
        ("linux", ("WAYLAND_DISPLAY",), True),
        ("darwin", (), True),
        ("win32", (), True),
    ],
)
def test_a_display_is_asked_for_on_linux_only(monkeypatch, no_display, platform, variables, expected):
    monkeypatch.setattr(doctor.sys, "platform", platform)
    for name in variables:
        monkeypatch.setenv(name, ":0")
    assert doctor.has_display() is expected
