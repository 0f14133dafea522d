"""`predict` on many inputs: what it says, its exit code, Ctrl-C, and several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from builders import write_landmarks
from networks import tiny_model
from quick_prediction import QuickNetwork
from typer.testing import CliRunner

from napari_pcs.cli import app
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import CancelledError, InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.session import Session

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Six hemispheres that know their AC and PC."""
    folder = tmp_path_factory.mktemp("cohort")
    for side in Hemisphere:
        case = phantom(side, spacing_mm=2.0)
        for n in range(3):
            path = folder / f"sub-{n}_hemi-{side.value}_gw.nii.gz"
            case.tissue.with_data(case.tissue.data * np.uint8(100)).write(path)
            write_landmarks(case, path)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models"), "mine")


@pytest.fixture
def quick(monkeypatch):
    return QuickNetwork(monkeypatch)


@pytest.fixture
def study(tmp_path, model):
    """Run `predict` into a session."""

    def predict(*arguments):
        options = ("--out", tmp_path / "study", "--model", model.path)
        return CliRunner().invoke(app, ["predict", *map(str, (*arguments, *options))])

    predict.root = tmp_path / "study"
    return predict


def cases_of(result):
    return [case["case"] for case in json.loads(result.stdout)["cases"]]


def test_a_folder_is_predicted_and_reported_in_its_order(cohort, study, quick):
    result = study(cohort, "--json")
    assert result.exit_code == 0, result.output
    expected = [f"sub-{n}_hemi-{side}" for n in range(3) for side in "LR"]
    assert cases_of(result) == expected == [key.stem for key in Session.open(study.root).keys()]  # noqa: SIM118
    assert json.loads(result.stdout)["failed"] == []
    told = [line for line in result.stderr.splitlines() if " on cpu (" in line]
    assert [line.split(":")[0] for line in told] == quick.seen
    assert "(1 of 6, " in told[0]
    assert "of 6" not in told[-1]


def test_what_is_there_is_skipped_unless_asked_for_again(cohort, study, quick):
    study(cohort)
    result = study(cohort)
    assert (result.exit_code, len(quick.seen)) == (0, 6)
    assert result.stdout.strip() == f"0 predictions, 6 there already in {study.root}"
    assert result.stderr.count("predicted before") == 6
    assert all(case["skipped"] for case in json.loads(study(cohort, "--json").stdout)["cases"])
    result = study(cohort, "--again")
    assert (result.exit_code, len(quick.seen)) == (0, 12)


def test_the_cases_of_a_session_are_predicted_by_naming_it(cohort, study, quick):
    study(cohort)
    result = study(study.root, "--again", "--hemisphere", "R", "--json")
    assert cases_of(result) == [f"sub-{n}_hemi-R" for n in range(3)]
    assert len(quick.seen) == 9


def test_a_failure_is_a_row_and_an_exit_code_and_the_others_are_there(cohort, study, quick, tmp_path):
    bad, empty = tmp_path / "sub-9_hemi-L_gw.nii.gz", tmp_path / "empty"
    bad.write_bytes(b"not an image")
    empty.mkdir()
    result = study(bad, cohort, empty, "--json")
    assert result.exit_code == 1
    assert len(cases_of(result)) == 6
    one, two = json.loads(result.stdout)["failed"]
    assert (one["input"], two["input"]) == (str(bad), str(empty))
    assert "found a file that is not an image" in one["reason"]
    assert "an empty folder" in two["reason"]
    assert f"Error: {one['reason']}" in result.stderr
    assert "Traceback" not in result.output
    result = study(bad, cohort, empty)
    assert (result.exit_code, result.stdout.strip()) == (
        1,
        f"0 predictions, 6 there already, 2 failed in {study.root}",
    )


def test_of_two_sides_of_one_file_the_one_that_fails_is_told(study, save, person, monkeypatch):
    def fail(stem, _stop):
        if "hemi-R" in stem:
            raise InputError(found="noise", expected="a brain")

    quick = QuickNetwork(monkeypatch, during=fail)
    monkeypatch.setattr("napari_pcs.anatomy.sources.base.locate", lambda case, _stop: (case, "made up"))
    result = study(save("ada_ribbon.nii.gz", person.ribbon(), person.affine))
    assert (result.exit_code, len(quick.seen)) == (1, 2)
    assert "Error: found noise, expected a brain." in result.stderr
    assert result.stdout.strip() == f"1 prediction, 1 failed in {study.root}"


def test_a_cancelled_run_tells_what_is_done(cohort, study, monkeypatch):
    def cancel(stem, _stop):
        if stem == "sub-2_hemi-L":
            raise CancelledError(stem)

    QuickNetwork(monkeypatch, during=cancel)
    result = study(cohort)
    done = [key for key in Session.open(study.root).keys() if key]  # noqa: SIM118
    assert (result.exit_code, result.stdout) == (1, "")
    count = f"{len(done)} prediction" + ("" if len(done) == 1 else "s")
    assert result.stderr.splitlines()[-1] == (f"Cancelled: {count} in {study.root}. Run the same again to do the rest.")
    quick = QuickNetwork(monkeypatch)
    result = study(cohort, "--json")
    assert (result.exit_code, len(cases_of(result)), len(quick.seen)) == (0, 6, 6 - len(done))


# Processes


@pytest.fixture
def environment(cache_folder, tmp_path):
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"NAPARI_PCS_CACHE": str(cache_folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return {**os.environ, **more, "QUICK_LOG": str(tmp_path / "log"), "QUICK_SECONDS": "0.2"}


def logged(environment):
    log = Path(environment["QUICK_LOG"])
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_ends_in_order_and_the_next_run_does_the_rest(cohort, model, environment, tmp_path):
    options = ("predict", cohort, "--out", tmp_path / "study", "--model", model.path, "--json")
    command = [sys.executable, str(TESTS / "quick_cli.py"), *map(str, options)]
    process = subprocess.Popen(
        command, env={**environment, "QUICK_SECONDS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ends = time.monotonic() + 120
    while len(logged(environment)) < 3 and time.monotonic() < ends:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 1, told
    assert "SIGINT: stopping; what is finished is written." in told
    assert "Traceback" not in told
    found = json.loads(out)
    session = Session.open(tmp_path / "study")
    assert found["cancelled"]
    assert [case["case"] for case in found["cases"]] == [key.stem for key in session.keys()]  # noqa: SIM118
    assert 1 <= len(found["cases"]) < 6
    assert not list(session.root.rglob("*.part"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    cases = json.loads(done.stdout)["cases"]
    assert [bool(case.get("skipped")) for case in cases].count(True) == len(found["cases"])
    assert len(cases) == 6


def test_two_processes_divide_the_cases_and_one_tells_of_all(cohort, model, environment, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    bad = tmp_path / "sub-9_hemi-L_gw.nii.gz"
    bad.write_bytes(b"not an image")
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port))
    options = ("predict", bad, cohort, "--out", tmp_path / "study", "--model", model.path, "--device", "cpu", "--json")
    found = subprocess.run(
        [sys.executable, *launch, str(TESTS / "quick_cli.py"), *map(str, options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode != 0  # one failed
    expected = [f"sub-{n}_hemi-{side}" for n in range(3) for side in "LR"]
    assert [case["case"] for case in json.loads(found.stdout)["cases"]] == expected, found.stderr
    (failed,) = json.loads(found.stdout)["failed"]
    assert failed["input"] == str(bad)
    ranks, stems = zip(*logged(environment), strict=True)
    assert sorted(stems) == expected
    assert set(ranks) == {"0", "1"}
    session = Session.open(tmp_path / "study")
    assert [key.stem for key in session.keys()] == expected  # noqa: SIM118
    assert (session.root / "participants.tsv").read_text().split() == ["participant_id", "sub-0", "sub-1", "sub-2"]
