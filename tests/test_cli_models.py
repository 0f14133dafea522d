import json

import pytest
import torch
from adapted import adapter_model
from networks import tiny_network
from published import torchvision_resnet18
from typer.testing import CliRunner

from napari_pcs.cli import app
from napari_pcs.models.folders import ModelFolder, find_model
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.store import save_network
from napari_pcs.session import Session

COMMANDS = ("list", "show", "import", "export", "merge")


def run(*arguments):
    return CliRunner().invoke(app, ["models", *(str(a) for a in arguments)])


def succeed(*arguments):
    """Run a command with --json; stdout is one JSON object and nothing else."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fails(result, *said):
    """Say whether a command failed with one sentence on stderr and nothing else."""
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.startswith("Error: ") and all(part in line for part in said)


@pytest.fixture
def session(tmp_path):
    return Session.create(tmp_path / "study")


@pytest.fixture
def pretrained(session):
    stage = Stage(name="pre", objective="reconstruction", data="40 hemispheres", epochs=3, parts=("stem", "encoder"))
    return save_network(tiny_network(), session.models / "pre", "# pre\n\nA card.\n", lineage=Lineage(stages=(stage,)))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision_resnet18(), path)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_can_print_json(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_a_model_is_shown_with_its_settings_its_lineage_and_its_card(session, pretrained):
    found = succeed("show", "pre", "--session", session.root)
    assert found == {
        "name": "pre",
        "digest": pretrained.digest,
        "path": str(pretrained.path),
        "base": None,
        "config": tiny_network().config.model_dump(mode="json"),
        "trained_heads": False,
        "lineage": [stage.model_dump(mode="json") for stage in pretrained.lineage.stages],
        "card": pretrained.card,
    }
    text = run("show", "pre", "--session", session.root).stdout
    assert "feature_size 12" in text
    assert "tune it before it can predict" in text
    assert text.count("| pre | reconstruction | 40 hemispheres | 3 |") == 1


def test_the_shipped_model_is_shown_without_a_lineage():
    found = succeed("show", "starter")
    assert (found["lineage"], found["trained_heads"]) == ([], True)
    assert found["card"] == find_model("starter").card


def test_models_of_a_session_are_found_only_with_it(session, pretrained):
    assert fails(run("show", "pre"), "Model pre: found no model of that name", "starter")
    assert succeed("list", "--session", session.root)["models"][-1]["name"] == "pre"
    assert [m["name"] for m in succeed("list")["models"]] == ["starter"]


def test_a_model_without_a_lineage_in_its_card_is_shown_with_one(pretrained):
    (pretrained.path / "card.md").write_text("# pre\n")
    assert "| pre | reconstruction |" in run("show", pretrained.path).stdout


@pytest.mark.parametrize("into_session", [True, False])
def test_published_weights_become_a_model_in_a_session_or_a_folder(session, tmp_path, weights, into_session):
    out = session.root if into_session else tmp_path / "models"
    found = succeed("import", weights, "--as", "resnet18", "--name", "natural", "--out", out)
    expected = session.models / "natural" if into_session else out / "natural"
    assert found["path"] == str(expected)
    assert found["digest"] == ModelFolder(expected).digest
    assert found["config"]["architecture"] == "resnet18"
    assert found["lineage"][0]["objective"] == "imported: resnet18.pth"
    assert fails(
        run("import", weights, "--as", "resnet18", "--name", "natural", "--out", out), "a model of that name already"
    )


def test_weights_of_another_network_are_refused_by_name(tmp_path, weights):
    result = run("import", weights, "--as", "monai-swin-unetr", "--name", "m", "--out", tmp_path)
    assert fails(result, "missing (backbone.swinViT.", "unexpected (bn1.bias")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "m"], "expected one of: monai-swin-unetr, resnet18"),
        (["--as", "vgg", "--name", "m"], "expected one of: monai-swin-unetr, resnet18"),
        (["--as", "resnet18"], "expected a name"),
    ],
)
def test_what_is_not_said_of_published_weights_is_asked_for(tmp_path, weights, options, said):
    result = run("import", weights, "--out", tmp_path / "models", *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".m"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, weights, name):
    result = run("import", weights, "--as", "resnet18", "--name", name, "--out", tmp_path / "models")
    assert fails(result, "found a name that is no folder's")


def test_an_exported_model_is_imported_elsewhere_as_it_was(session, pretrained, tmp_path):
    archive = tmp_path / "pre.zip"
    exported = succeed("export", "pre", archive, "--session", session.root)
    assert exported == {
        "name": "pre",
        "digest": pretrained.digest,
        "path": str(archive),
        "bytes": archive.stat().st_size,
        "base": None,
    }
    other = Session.create(tmp_path / "other")
    found = succeed("import", archive, "--out", other.root)
    assert found == {**succeed("show", pretrained.path), "path": str(other.models / "pre")}
    assert succeed("import", archive, "--out", other.root, "--name", "again")["name"] == "again"
    assert run("import", archive, "--as", "resnet18", "--out", other.root).exit_code == 2
    assert fails(run("export", "starter", archive), "expected a new file")


def test_a_pre_trained_model_is_refused_for_prediction_before_anything_is_read(pretrained, tmp_path):
    arguments = ("predict", tmp_path / "not-read.nii.gz", "--out", tmp_path / "o", "--model", pretrained.path)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert fails(result, "Model pre: found a pre-trained network without trained heads, expected a tuned one")


# Adapters


@pytest.fixture
def adapter(session):
    return adapter_model(session.models)[0]


def test_an_adapter_is_listed_and_shown_with_its_base(session, adapter):
    base = {"name": "base", "digest": adapter.base.digest}
    listed = succeed("list", "--session", session.root)["models"]
    assert {m["name"]: m["base"] for m in listed} == {"starter": None, "base": None, "mine": base}
    assert succeed("show", "mine", "--session", session.root)["base"] == base
    assert run("list", "--session", session.root).stdout.splitlines()[-1].endswith("adapter of base")
    assert f"Adapter of base  {base['digest'][:12]}" in run("show", "mine", "--session", session.root).stdout


def test_an_exported_adapter_says_what_it_needs_and_is_imported_only_where_that_is(session, adapter, tmp_path):
    archive = tmp_path / "mine.zip"
    assert "can only be imported where there is base" in run("export", adapter.path, archive).stdout
    assert succeed("export", adapter.path, tmp_path / "2.zip")["base"] == adapter.base.model_dump()
    other = Session.create(tmp_path / "other")
    assert fails(
        run("import", archive, "--out", other.root), "Model mine: found no base base", "Import or copy that one"
    )
    base = tmp_path / "base.zip"
    succeed("export", session.models / "base", base)
    succeed("import", base, "--out", other.root)
    assert succeed("import", archive, "--out", other.root)["digest"] == adapter.digest


def test_an_adapter_is_merged_into_a_model_of_its_own(session, adapter, tmp_path):
    found = succeed("merge", "mine", "--name", "whole", "--session", session.root)
    assert (found["path"], found["base"]) == (str(session.models / "whole"), None)
    assert found["card"].startswith(
        "# whole\n\nMerged from the adapter mine and its base base.\n\nTuned from **base**."
    )
    assert found["card"].count("## Lineage") == 1
    assert [stage["name"] for stage in found["lineage"]] == ["mine", "whole"]
    other = succeed("merge", adapter.path, "--name", "whole", "--out", tmp_path / "other")
    assert (other["path"], other["digest"]) == (str(tmp_path / "other" / "whole"), found["digest"])
    assert fails(run("merge", adapter.path, "--name", "whole"), "Model whole: found a model of that name already")
    assert fails(run("merge", "base", "--name", "x", "--session", session.root), "expected an adapter")
    assert fails(run("merge", adapter.path, "--name", "../x"), "found a name that is no folder's")
