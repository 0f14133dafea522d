"""`tune --strategy lora` from end to end, and what its model can be used for."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from builders import corrected_by, predicted_by, write_landmarks
from networks import look_through_a_small_box, tiny_model
from typer.testing import CliRunner

from napari_pcs.bids import CaseKey
from napari_pcs.case import LabelRole
from napari_pcs.cli import app
from napari_pcs.models.adapter_files import WEIGHTS
from napari_pcs.models.folders import ModelFolder
from napari_pcs.session import Session


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def succeed(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result, *said):
    """Say whether a command failed, and with that sentence in the end: progress may come before it."""
    assert result.exit_code == 1, result.output
    line = result.stderr.splitlines()[-1]
    return line.startswith("Error: ") and all(part in line for part in said)


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


@pytest.fixture(scope="module")
def studied(tmp_path_factory, coarse_left):
    """A session with one corrected case, a base, an adapter of it, and an adapter of that."""
    root = tmp_path_factory.mktemp("cli") / "study"
    session = Session.create(root)
    truth = coarse_left.labels[LabelRole.REFERENCE].data
    case = replace(coarse_left, key=CaseKey("ada", "", coarse_left.key.hemisphere), labels={})
    case = case.with_labels(LabelRole.PREDICTED, truth, predicted_by())
    session.add(case)
    session.write_correction(case.with_labels(LabelRole.CORRECTED, truth, corrected_by()), truth, seconds=2.0)
    tiny_model(session.models, "base")
    settings = root / "settings.json"
    lora = {"rank": 2, "alpha": 4, "dora": True}
    settings.write_text(
        json.dumps({"round_steps": 1, "batch_size": 1, "patches": 1, "views": 1, "patch": 64, "lora": lora})
    )
    with pytest.MonkeyPatch.context() as patch:
        look_through_a_small_box(patch)
        found = [
            succeed(
                *("tune", "--data", root, "--model", model, "--strategy", "lora"),
                *("--rounds", 2, "--config", settings, "--name", name),
            )
            for model, name in (("base", "first"), ("first", "second"))
        ]
    return session, found


@pytest.fixture(scope="module")
def left_map(coarse_left, tmp_path_factory):
    """The same hemisphere as the grey/white map of 100 and 200 that other programs make."""
    path = tmp_path_factory.mktemp("maps") / "Lgrey_white_ada.nii.gz"
    coarse_left.tissue.with_data(coarse_left.tissue.data * np.uint8(100)).write(path)
    write_landmarks(coarse_left, path)
    return path


@pytest.fixture
def session(studied, tmp_path):
    """A copy that may be damaged."""
    return Session.open(shutil.copytree(studied[0].root, tmp_path / "study"))


def test_the_new_model_is_an_adapter_that_is_listed_beside_its_base(studied):
    session, (first, second) = studied
    listed = {m["name"]: m for m in succeed("models", "list", "--session", session.root)["models"]}
    assert listed["first"]["base"] == {"name": "base", "digest": listed["base"]["digest"]}
    assert listed["second"]["base"] == {"name": "first", "digest": listed["first"]["digest"]}
    for told, name in ((first, "first"), (second, "second")):
        assert told["model"] == {"name": name, "digest": listed[name]["digest"]}
        assert told["strategy"] == "lora"
        assert 0 < told["trainable_parameters"] < told["total_parameters"] / 20
    written = json.loads((session.models / "first" / "adapter" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["use_dora"]) == (2, 4, True)


@pytest.mark.parametrize("name", ["first", "second"])
def test_it_predicts_like_any_other_model(studied, left_map, name, tmp_path):
    session, _ = studied
    found = succeed("predict", left_map, "--model", session.models / name, "--out", tmp_path / "out")
    (case,) = found["cases"]
    assert case["model"] == {"name": name, "digest": ModelFolder(session.models / name).digest}


def test_it_is_merged_exported_and_imported_with_all_that_it_needs(session, tmp_path):
    root = session.root
    merged = succeed("models", "merge", "second", "--name", "whole", "--session", root)
    assert merged["base"] is None
    archive = tmp_path / "second.zip"
    assert succeed("models", "export", "second", archive, "--session", root)["base"]["name"] == "first"
    elsewhere = tmp_path / "elsewhere"
    assert refused(run("models", "import", archive, "--out", elsewhere), "Model second: found no base first")
    for name in ("base", "first"):
        succeed("models", "export", name, tmp_path / f"{name}.zip", "--session", root)
        succeed("models", "import", tmp_path / f"{name}.zip", "--out", elsewhere)
    imported = succeed("models", "import", archive, "--out", elsewhere)
    assert imported["digest"] == ModelFolder(session.models / "second").digest
    whole = succeed("models", "merge", elsewhere / "second", "--name", "whole")
    assert whole["digest"] == merged["digest"]


def test_a_base_that_lies_elsewhere_is_refused_before_anything_is_tuned(session, tmp_path):
    base = tiny_model(tmp_path / "elsewhere", "far", seed=9)
    result = run("tune", "--data", session.root, "--model", base.path, "--strategy", "lora", "--rounds", 1)
    assert refused(result, "Model far: found it in", "expected the base of an adapter beside it", "strategy that saves")
    assert not list(session.models.glob("far*"))


def test_what_was_damaged_is_refused_with_a_sentence_and_nothing_is_written(session, left_map, tmp_path):
    root, models = session.root, session.models
    path = models / "first" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-9])
    commands = [
        ("predict", left_map, "--model", models / "first", "--out", tmp_path / "out"),
        ("predict", left_map, "--model", models / "second", "--out", tmp_path / "out"),
        ("tune", "--data", root, "--model", "first", "--strategy", "lora", "--rounds", 1, "--name", "third"),
        ("models", "merge", "first", "--name", "whole", "--session", root),
        ("models", "export", "first", tmp_path / "first.zip", "--session", root),
    ]
    for command in commands:
        assert refused(run(*command), "Model first: found an adapter with digest", "Copy the whole folder again")
    shutil.rmtree(models / "base")
    for command in commands:
        assert run(*command).exit_code == 1
    assert refused(run(*commands[3]), "found no base base with digest", "Import or copy that one first")
    assert not any((models / name).exists() for name in ("third", "whole"))
    assert not (tmp_path / "first.zip").exists()
