import json

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_pcs import doctor
from napari_pcs.caches import feature_cache, prediction_cache
from napari_pcs.cli import app
from napari_pcs.data.bundles import bundle_key
from napari_pcs.locks import locked_file

KEY = bundle_key("key")


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def succeed(*arguments):
    """Run a command with --json; stdout is one JSON object and nothing else."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_PCS_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("NAPARI_PCS_CACHE_GB", "3")
    return tmp_path / "kept"


@pytest.fixture
def filled(root):
    feature_cache().write(KEY, {"a": np.zeros(1_500_000, np.uint8)})
    prediction_cache().write(KEY, {"a": np.zeros(500_000, np.uint8)})
    return root


def test_help_says_what_it_does():
    result = run("cache", "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for said in ("--clear", "--json", "is computed again"):
        assert said in text


def test_json_has_folder_entries_bytes_and_limit_of_each(filled):
    found = succeed("cache")
    assert found["folder"] == str(filled)
    assert found["freed_bytes"] == 0
    hemispheres, features, predictions = found["kept"]
    assert hemispheres == {
        "name": "hemispheres",
        "folder": str(filled / "hemispheres"),
        "entries": 0,
        "bytes": 0,
        "limit_bytes": None,
    }
    assert (features["name"], features["entries"], features["limit_bytes"]) == ("features", 1, 3_000_000_000)
    assert 1_500_000 < features["bytes"] < 1_501_000
    assert (predictions["name"], predictions["entries"]) == ("predictions", 1)
    assert predictions["limit_bytes"] <= 2_000_000_000


def test_text_is_a_line_for_each(filled):
    lines = run("cache").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["hemispheres", "features", "predictions"]
    assert "without limit" in lines[0]
    assert "1.5 MB of at most 3000.0 MB" in lines[1]
    assert lines[1].endswith(str(filled / "features"))


def test_clearing_says_what_is_free_again(filled):
    assert run("cache").stdout.count("0.5 MB") == 1
    found = succeed("cache", "--clear")
    assert 2_000_000 < found["freed_bytes"] < 2_002_000
    assert [part["entries"] for part in found["kept"]] == [0, 0, 0]
    assert not feature_cache().has(KEY)
    assert run("cache", "--clear").stdout.splitlines()[0] == "0.0 MB are free again."


def test_a_variable_that_is_no_size_is_one_sentence(monkeypatch):
    monkeypatch.setenv("NAPARI_PCS_CACHE_GB", "much")
    result = run("cache")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: found NAPARI_PCS_CACHE_GB=much, expected")


def test_a_folder_that_another_process_holds_is_one_sentence(filled, monkeypatch):
    monkeypatch.setattr("napari_pcs.data.room._WAIT_S", 0.02)
    with locked_file(filled / "features" / "size", 1):
        result = run("cache", "--clear")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line == "Error: features: found it held by another process, expected it free. Try again in a moment."


def test_doctor_says_where_and_how_much_is_kept(filled):
    found = succeed("doctor")["cache"]
    assert found["folder"] == str(filled)
    assert found["bytes"] == sum(part["bytes"] for part in succeed("cache")["kept"]) > 2_000_000
    assert f"kept in {filled}: 2.0 MB" in run("doctor").stdout


def test_doctor_advises_where_nothing_can_be_kept(tmp_path):
    assert doctor._cache_advice(tmp_path / "new" / "folder") == []
    (tmp_path / "file").write_text("no folder")
    (advice,) = doctor._cache_advice(tmp_path / "file" / "below")
    assert "NAPARI_PCS_CACHE" in advice
