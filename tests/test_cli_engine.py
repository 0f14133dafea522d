"""What runs the network, chosen on the command line."""

import json

import pytest
from networks import look_through_a_small_box, tiny_model
from typer.testing import CliRunner

from napari_pcs.bids import CaseKey
from napari_pcs.case import Case
from napari_pcs.cli import app
from napari_pcs.labels import Hemisphere
from napari_pcs.session import Session


@pytest.fixture
def predict(monkeypatch, tmp_path, coarse_left):
    """Predict one case of a session by `napari-pcs predict`."""
    look_through_a_small_box(monkeypatch)
    source = Session.create(tmp_path / "source")
    source.add(Case(CaseKey("ada", "", Hemisphere.LEFT), coarse_left.tissue, coarse_left.image))
    model = tiny_model(tmp_path, "mine")

    def run(*options):
        out = ("--out", tmp_path / "study", "--model", model.path, "--json", *options)
        return CliRunner().invoke(app, [str(part) for part in ("predict", source.root, *out)])

    return run


def test_the_report_names_how_the_network_was_run(predict):
    found = predict("--engine", "torch")
    assert found.exit_code == 0, found.output
    (case,) = json.loads(found.stdout)["cases"]
    assert (case["mode"], case["route"]) == ("whole", "one pass, PyTorch fp32")
    assert "one pass, PyTorch fp32; network" in found.stderr


def test_openvino_runs_it_where_that_was_asked_for(predict, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr("napari_pcs.inference.agreement.PROBE", (64, 32, 32))
    found = predict("--engine", "openvino", "--device", "cpu")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["cases"][0]["route"].startswith("one pass, OpenVINO")


def test_an_engine_that_there_is_not_is_refused_before_anything_is_read(predict, tmp_path):
    found = predict("--engine", "tensorrt")
    assert found.exit_code == 1
    assert "found the engine tensorrt, expected one of auto, torch, openvino" in found.stderr
    assert not (tmp_path / "study").exists()
