"""`napari-pcs tune`: options, settings from a file, runs that are repeated, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import corrected_by, predicted_by
from networks import look_through_a_small_box, tiny_model
from safetensors.torch import load_file
from typer.testing import CliRunner

from napari_pcs.bids import CaseKey
from napari_pcs.case import LabelRole
from napari_pcs.cli import app
from napari_pcs.models.folders import ModelFolder, list_models
from napari_pcs.session import Session
from napari_pcs.training.config import TuneConfig

PRED, CORR = LabelRole.PREDICTED, LabelRole.CORRECTED
SMALL = {"patch": 32, "patches": 2, "views": 1, "round_steps": 1}
FIGURES = {"dice", "nsd_1mm", "hd_mm", "hd95_mm", "assd_mm", "cldice"}


def run(*arguments):
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


def succeed(*arguments):
    """Run with --json; stdout is one JSON object and nothing else."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result):
    """Return the one sentence on stderr with which a command failed, after what it told of its progress."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    assert result.stderr.count("Error: ") == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


@pytest.fixture
def session(tmp_path, coarse_left):
    """Session with the corrected cases of two people and a model."""
    session = Session.create(tmp_path / "study")
    truth = coarse_left.labels[LabelRole.REFERENCE].data
    for name in ("ada", "bob"):
        case = replace(coarse_left, key=CaseKey(name, "", coarse_left.key.hemisphere), labels={})
        case = case.with_labels(PRED, truth, predicted_by())
        session.add(case)
        session.write_correction(case.with_labels(CORR, truth, corrected_by()), truth, seconds=2.0)
    tiny_model(session.models, "base")
    return session


@pytest.fixture
def settings(tmp_path):
    """Write settings as JSON."""

    def settings(**changes):
        path = tmp_path / "settings.json"
        path.write_text(json.dumps({**SMALL, **changes}))
        return path

    return settings


def weights(session, name):
    return load_file(session.models / name / "weights.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], tensor) for name, tensor in two.items())


def config_of(told):
    return TuneConfig.model_validate_json((Path(told["run"]) / "config.json").read_text())


# What it does


def test_the_json_keeps_its_contract(session, settings):
    told = succeed("--data", session.root, "--model", "base", "--rounds", 2, "--config", settings(), "--name", "ours")
    model = ModelFolder(session.models / "ours")
    assert told["model"] == {"name": "ours", "digest": model.digest}
    assert told["path"] == str(model.path)
    assert told["held_out_cases"] in (["sub-ada_hemi-L"], ["sub-bob_hemi-L"])
    for moment in ("before", "after"):
        assert set(told[moment]) == {"skeleton", "pcs", "length_error_mm"}
        assert set(told[moment]["pcs"]) == FIGURES
        assert 0 <= told[moment]["skeleton"]["dice"] <= 1
    assert 0 < told["trainable_parameters"] < told["total_parameters"]
    assert (told["rounds"], told["strategy"], told["stopped"]) == (2, "top", "complete")
    assert told["epochs"] == 2  # each round is one batch of the two patches of one training case


@pytest.mark.parametrize("strategy", ["decoder", "scratch", "lora"])
def test_the_options_say_how(session, settings, strategy):
    chosen = ("--strategy", strategy, "--rounds", 1, "--budget", "best", "--learning-rate", 0.003, "--seed", 7)
    file = settings(patch=0, seed=1, weight_decay=0.002)
    told = succeed("--data", session.root, "--model", "base", *chosen, "--config", file)
    # Options go before the file, and the file before what is usual.
    expected = TuneConfig(
        **{**SMALL, "patch": 0},
        strategy=strategy,
        rounds=1,
        budget="best",
        learning_rate=0.003,
        seed=7,
        weight_decay=0.002,
    )
    assert config_of(told) == expected
    assert told["model"]["name"] == f"base-{strategy}-1"
    assert ModelFolder(session.models / f"base-{strategy}-1").is_adapter == (strategy == "lora")


def test_progress_goes_to_stderr_and_what_is_told_says_who_judged_and_how_it_came_out(session, settings):
    result = run("--data", session.root, "--model", "base", "--rounds", 1, "--config", settings())
    assert result.exit_code == 0
    assert re.search(r"judged on sub-(ada|bob)_hemi-L", result.stdout)
    head, *figures = result.stdout.splitlines()
    assert "1 round, as many as asked for; judged on" in head
    assert [line.split(":")[0].strip() for line in figures] == [
        f"{label} {figure}" for label in ("skeleton", "pcs") for figure in ("Dice", "Hausdorff 95 %")
    ]
    assert all(re.fullmatch(r".*: (\S+ mm|\S+|not known) before, (\S+ mm|\S+|not known) after", f) for f in figures)
    assert "step" in result.stderr


def test_of_one_person_nothing_is_judged_and_it_says_why(session, settings):
    for path in session.root.glob("sub-bob/anat/*desc-corr*"):
        path.unlink()
    arguments = ("--data", session.root, "--model", "base", "--rounds", 1, "--config", settings())
    told = succeed(*arguments)
    assert (told["before"], told["after"], told["held_out_cases"]) == (None, None, [])
    assert "corrections of a second person are needed" in run(*arguments).stdout
    assert {"base-top-1", "base-top-2"} <= {model.name for model in list_models(session.models)}


# Repeating


def test_a_run_is_repeated_with_the_very_same_weights(session, settings):
    first = succeed("--data", session.root, "--model", "base", "--rounds", 2, "--config", settings(), "--name", "first")
    again = succeed("--data", session.root, "--repeat", first["run"], "--name", "again")
    assert equal(weights(session, "first"), weights(session, "again"))
    assert first["model"]["digest"] == again["model"]["digest"]
    for figure in ("before", "after", "held_out_cases", "rounds", "best_step", "strategy"):
        assert again[figure] == first[figure]
    assert config_of(again) == config_of(first)
    assert again["run"] != first["run"]


@pytest.mark.parametrize(
    "extra", [("--strategy", "full"), ("--rounds", 3), ("--model", "base"), ("--seed", 0), ("--config", "s.json")]
)
def test_a_repeated_run_takes_no_settings(session, extra):
    said = refused(run("--data", session.root, "--repeat", session.root / "runs" / "one", *extra))
    assert said == "Found settings beside --repeat, expected none: a repeated run has those of its folder."


def test_a_run_that_is_none_cannot_be_repeated(session, tmp_path):
    said = refused(run("--data", session.root, "--repeat", tmp_path / "nothing"))
    assert said.startswith("Run nothing: found no record of a tuning in")


# What is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--strategy", "bottom"), r"Settings of tuning: strategy: Input should be 'top'.*, found 'bottom'"),
        (("--budget", "1h"), r"Settings of tuning: budget: Input should be '30s', '2min' or 'best', found '1h'"),
    ],
)
def test_a_setting_that_there_is_not_is_named(session, arguments, said):
    assert re.match(said, refused(run("--data", session.root, "--model", "base", *arguments)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"[Ff]ound no settings that can be read"),
        ("[1, 2]", r"[Ff]ound no settings that can be read"),
        ('{"patch": 33}', r"Settings of tuning: patch: Input should be a multiple of 32, found 33"),
        ('{"patches": 0, "views": 99}', r"Settings of tuning: patches: .*, found 0; views: .*, found 99"),
        ('{"epochs": 4}', r"Settings of tuning: epochs: Extra inputs are not permitted, found 4"),
        ('{"lora": {"rank": 0}}', r"Settings of tuning: lora\.rank: .*, found 0"),
        (None, r"[Ff]ound no settings that can be read \(.*No such file"),
    ],
)
def test_settings_that_are_none_are_a_sentence(session, tmp_path, content, said):
    path = tmp_path / "own.json"
    if content is not None:
        path.write_text(content)
    found = refused(run("--data", session.root, "--model", "base", "--config", path))
    assert re.search(said, found), found
    assert not list(session.root.glob("runs/*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rounds", 0),
        ("--rounds", 100_001),
        ("--rounds", "many"),
        ("--learning-rate", 0.2),
        ("--learning-rate", 0),
        ("--seed", -1),
        ("--seed", 2**31),
        ("--epochs", 3),
    ],
)
def test_numbers_out_of_bounds_are_usage_errors(session, arguments):
    result = run("--data", session.root, *arguments)
    assert result.exit_code == 2
    assert str(arguments[0]) in result.stderr


def test_without_data_it_is_a_usage_error_and_without_a_session_a_sentence(tmp_path):
    assert run().exit_code == 2
    assert "found no readable session.json" in refused(run("--data", tmp_path / "none"))


def test_without_corrections_or_into_a_model_that_is_there_it_is_a_sentence(session, settings):
    arguments = ("--data", session.root, "--model", "base", "--rounds", 1, "--config", settings())
    tiny_model(session.models, "old")
    assert "Model old: found a model of that name" in refused(run(*arguments, "--name", "old"))
    for path in session.root.glob("sub-*/anat/*desc-corr*"):
        path.unlink()
    assert "found no corrected case" in refused(run(*arguments)).lower()


def test_patches_that_are_too_small_for_the_strategy_are_a_sentence(session, settings):
    said = refused(run("--data", session.root, "--model", "base", "--strategy", "full", "--config", settings()))
    assert "found patches of 32 voxels for full, which trains the encoder" in said
    assert [model.name for model in list_models(session.models)].count("base-full-1") == 0


def test_an_adapter_of_a_model_that_it_would_not_be_found_with_is_refused_before_anything_is_tuned(session, tmp_path):
    elsewhere = tiny_model(tmp_path / "elsewhere", "other", seed=1)
    said = refused(run("--data", session.root, "--model", elsewhere.path, "--strategy", "lora", "--rounds", 1))
    assert said.startswith(
        f"Model other: found it in {elsewhere.path.parent}, expected the base of an adapter beside it"
    )
    assert not list(session.root.glob("runs/*"))


# Help


def test_help_explains_every_option():
    text = re.sub(r"\s+", " ", run("--help").stdout)
    for option in ("--data", "--model", "--name", "--strategy", "--budget", "--rounds", "--config", "--repeat"):
        assert option in text
    for part in (
        "top, decoder, full, lora or scratch: what trains beside the heads",
        "30s, 2min, or best: until it stops improving",
        "Folder of a tuning run to repeat exactly",
        "JSON of all settings; the options above go first",
    ):
        assert part in text
