import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from pretraining import TISSUE, losses_of, recorded_losses, stage, start
from skimage.io import imsave
from typer.testing import CliRunner

from napari_pcs.cli import app
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.store import load_network
from napari_pcs.objectives import known_objectives
from napari_pcs.training.plan import read_plan

LOOP = {"epochs": 20, "batch_size": 2, "micro_batch": 2, "precision": "fp32", "checkpoint_minutes": 1e-9, "seed": 3}
"""Many quick steps with a checkpoint after each."""
LONG = {"loop": LOOP, "held_out_share": 0, "picture_epochs": 100}
COMMAND = ("-m", "napari_pcs", "pretrain", "--device", "cpu")


def run(*arguments):
    return CliRunner().invoke(app, ["pretrain", "--device", "cpu", *map(str, arguments)])


def written(folder, settings):
    path = folder / "settings.json"
    path.write_text(json.dumps(settings))
    return path


def only_run(root):
    (found,) = (root / "runs").iterdir()
    return found


def quick(maps, root, *arguments, objective=TISSUE, settings=None):
    """Run the quick recipe on a few hemispheres in this process."""
    config = written(root, settings or {"loop": {"micro_batch": 2, "precision": "fp32"}})
    common = ("--objective", objective, "--data", maps, "--out", root, "--recipe", "quick", "--config", config)
    return run(*common, "--batch-size", 2, "--epochs", 1, *arguments)


@pytest.fixture
def environment(cache_folder):
    """Variables of a process that keeps out of the user's cache and uses one core."""
    return {**os.environ, "NAPARI_PCS_CACHE": str(cache_folder), "OMP_NUM_THREADS": "1"}


# One process


def test_a_stage_prints_what_it_made_as_json_and_all_else_on_stderr(maps, tmp_path):
    found = quick(maps, tmp_path, "--name", "first", "--json")
    assert found.exit_code == 0, found.stderr
    result = json.loads(found.stdout)
    model = ModelFolder(tmp_path / "models" / "first")
    assert {"model", "objective", "epochs", "seconds_per_epoch", "loss", "lineage"} <= set(result)
    assert result["model"] == {"name": "first", "digest": model.digest}
    assert (result["objective"], result["epochs"], result["stopped"]) == ("tissue", 1, "complete")
    assert result["seconds_per_epoch"] > 0
    losses = recorded_losses(only_run(tmp_path))
    assert result["loss"] == {k: pytest.approx(sum(losses) / len(losses)) for k in ("first", "last")}
    assert result["lineage"] == [s.model_dump(mode="json") for s in model.lineage.stages]
    assert result["skipped"] == []
    assert "all are brought to 1 mm" in found.stderr
    assert f"run: {only_run(tmp_path)}" in found.stderr


def test_stages_are_chained_by_name_and_models_get_names_of_their_own(maps, tmp_path):
    assert quick(maps, tmp_path).exit_code == 0
    found = quick(maps, tmp_path, "--init", "tissue-1", "--json")
    assert found.exit_code == 0, found.stderr
    lineage = json.loads(found.stdout)["lineage"]
    assert [s["name"] for s in lineage] == ["tissue-1", "tissue-2"]
    assert [s["digest"] for s in lineage] == [ModelFolder(tmp_path / "models" / s["name"]).digest for s in lineage]


def test_a_file_of_settings_wins_over_the_recipe_and_an_option_over_both(maps, tmp_path):
    settings = {"loop": {"epochs": 7, "seed": 5, "micro_batch": 1, "optimiser": {"weight_decay": 0.5}}}
    found = quick(maps, tmp_path, "--learning-rate", 0.25, settings=settings)
    assert found.exit_code == 0, found.stderr
    config = read_plan(only_run(tmp_path)).stage
    assert (config.loop.epochs, config.loop.batch_size, config.loop.optimiser.learning_rate) == (1, 2, 0.25)
    assert (config.loop.seed, config.loop.micro_batch, config.loop.optimiser.weight_decay) == (5, 1, 0.5)
    assert (config.loop.optimiser.name, config.loop.schedule.name, config.patch) == ("adamw", "cosine", (64, 32, 32))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(4):
        picture = np.random.default_rng(n).integers(0, 255, (48, 48, 3)).astype(np.uint8)
        imsave(folder / f"sub-{n}.png", picture, check_contrast=False)
    return folder


def test_a_folder_of_images_trains_the_recipes_network_for_images(images, tmp_path):
    settings = {"patch": [32, 32], "loop": {"micro_batch": 2}, "held_out_share": 0}
    found = quick(images, tmp_path, objective="simclr", settings=settings)
    assert found.exit_code == 0, found.stderr
    assert load_network(ModelFolder(tmp_path / "models" / "simclr-1")).config.architecture == "resnet18"


def test_an_objective_of_hemispheres_refuses_images(images, tmp_path):
    found = quick(images, tmp_path, objective="reconstruction", settings={})
    assert found.exit_code == 1
    assert "Objective reconstruction: found the network resnet18 (2-D), expected a 3-D Segmenter" in found.stderr
    assert not (tmp_path / "runs").exists()


def test_objectives_and_recipes_are_listed():
    found = run("--list", "--json")
    assert found.exit_code == 0
    content = json.loads(found.stdout)
    assert set(content["objectives"]) == set(known_objectives())
    assert set(content["recipes"]) == {"published", "laptop", "quick"}
    text = run("--list").stdout
    assert all(name in text and summary in text for name, summary in content["objectives"].items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loop": {"epoch": 3}}, "loop.epoch: Extra inputs are not permitted"),
        ({"settings": {"nois": 1}}, "nois: Extra inputs are not permitted"),
        ({"network": {"feature_size": 13}}, "network.swin_unetr.feature_size: Input should be 12, 24, 36 or 48"),
        ({"held_out_share": 0.9}, "held_out_share: Input should be less than or equal to 0.5"),
    ],
)
def test_a_setting_that_cannot_be_is_named(maps, tmp_path, settings, told):
    found = quick(maps, tmp_path, settings=settings)
    assert (found.exit_code, found.stdout) == (1, "")
    assert told in found.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 1, "Found no --objective or no --data, expected both"),
        (("--objective", "nothing", "--data", "."), 1, "Objective nothing: found none of that name, expected one of"),
        (("--objective", "simclr", "--data", "nowhere"), 1, "nowhere: found no such file or folder"),
        (("--objective", "simclr", "--data", ".", "--init", "nobody"), 1, "Model nobody: found no model"),
        (("--resume", "nowhere"), 1, "Run nowhere: found no config.json"),
        (("--resume", "r", "--epochs", "3", "--init", "m"), 1, "found --init, --epochs beside it, expected none"),
        (("--objective", "simclr", "--data", ".", "--epochs", "0"), 2, "--epochs"),
        (("--objektive", "simclr"), 2, "--objektive"),
    ],
)
def test_what_cannot_be_done_is_told_with_an_exit_code(tmp_path, monkeypatch, arguments, code, told):
    monkeypatch.chdir(tmp_path)
    found = run(*arguments)
    assert (found.exit_code, found.stdout) == (code, "")
    assert told in " ".join(found.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[1]", "{", ""])
def test_a_file_of_settings_that_is_no_json_object_is_refused(maps, tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    found = run("--objective", "simclr", "--data", maps, "--config", path)
    assert found.exit_code == 1
    assert "expected an object of settings" in found.stderr


def test_a_folder_of_settings_for_tuning_is_not_gone_on_with(tmp_path):
    (tmp_path / "config.json").write_text('{"strategy": "top", "epochs": 5}')
    found = run("--resume", tmp_path)
    assert found.exit_code == 1
    assert "found no config.json of a pre-training run" in found.stderr


# A process that is stopped


@pytest.fixture(scope="module")
def uninterrupted(maps, tmp_path_factory):
    """Losses of a run that nobody stops."""
    root = tmp_path_factory.mktemp("uninterrupted")
    config = stage("tissue", **{**LONG, "loop": {**LOOP, "checkpoint_minutes": 10}})
    losses = losses_of(start(root, maps, config))
    return losses, ModelFolder(root / "models" / "mine").digest


def wait_for_steps(root, process, steps):
    """Return the folder of the run once so many steps are told."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends and process.poll() is None:
        for events in root.glob("runs/*/events.jsonl"):
            if events.read_text().count('"event": "Step"') >= steps:
                return events.parent
        time.sleep(0.02)
    process.kill()
    pytest.fail(process.communicate()[1])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_killed_run_goes_on_with_the_losses_of_one_that_nobody_stopped(
    maps, tmp_path, environment, uninterrupted, name
):
    config = written(tmp_path, LONG)
    options = ("--objective", TISSUE, "--data", maps, "--out", tmp_path, "--recipe", "quick", "--config", config)
    process = subprocess.Popen(
        [sys.executable, *COMMAND, *map(str, options)], env=environment, stderr=subprocess.PIPE, text=True
    )
    folder = wait_for_steps(tmp_path, process, 5)
    process.send_signal(signal.Signals[name])
    told = process.communicate(timeout=60)[1]
    expected, digest = uninterrupted
    done = len(recorded_losses(folder))
    assert 5 <= done < len(expected)
    assert not (tmp_path / "models").exists()
    if name == "SIGINT":
        assert process.returncode == 1
        assert "SIGINT: stopping with a checkpoint." in told
        assert f"Go on with: napari-pcs pretrain --resume {folder}" in told
    found = run("--resume", folder, "--json")
    assert found.exit_code == 0, found.stderr
    assert recorded_losses(folder) == expected
    assert json.loads(found.stdout)["model"]["digest"] == digest
    rows = (folder / "history.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, len(expected) + 1))
    assert load_network(ModelFolder(tmp_path / "models" / "tissue-1"))


# Many processes


@pytest.mark.parametrize("objective", ["reconstruction", "simclr"])
def test_two_processes_have_the_losses_of_one_with_twice_the_batch(maps, tmp_path, environment, objective):
    # Adam makes a whole step of the rounding of a gradient that is nearly 0; SGD does not.
    plain = {"name": "sgd", "learning_rate": 1e-3}
    common = {"epochs": 1, "micro_batch": 4, "precision": "fp32", "seed": 2, "optimiser": plain}
    whole = stage(objective, loop={**common, "batch_size": 4}, held_out_share=0)
    expected = losses_of(start(tmp_path / "one", maps, whole))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port))
    settings = {"loop": {**common, "batch_size": 2}, "held_out_share": 0, "picture_epochs": 100}
    config = written(tmp_path, settings)
    options = ("--objective", objective, "--data", maps, "--out", tmp_path, "--recipe", "quick", "--config", config)
    found = subprocess.run(
        [sys.executable, *launch, *COMMAND, *map(str, options), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert recorded_losses(only_run(tmp_path)) == pytest.approx(expected, rel=1e-4)
    assert len(expected) == 2
    result = json.loads(found.stdout)  # one object: only the main process speaks
    assert result["lineage"][-1]["digest"] == ModelFolder(tmp_path / "models" / f"{objective}-1").digest
