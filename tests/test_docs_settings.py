"""The tables of settings in the docs are those of the program."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from napari_pcs.errors import ModelError
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.recipes import merged, read_recipe, stage_config

ROOT = Path(__file__).parents[1]
PAGES = ["how-to/pretrain.md", "how-to/objective.md", "reference/pretraining.md", "explanation/pretraining.md"]


def shown_settings():
    """Every block or inline piece of JSON that a page tells the reader to put into a file of settings."""
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text()
        for piece in re.findall(r"```json\n(.*?)```", text, re.DOTALL) + re.findall(r"(?<!\| )`(\{.*?\})`", text):
            yield pytest.param(json.loads(piece), id=f"{page}: {' '.join(piece.split())[:50]}")


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "scripts" / "settings_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["how-to/pretrain.md", "reference/pretraining.md", "reference/tuning.md"])
def test_the_tables_in_the_docs_are_up_to_date(tables, page):
    text = (ROOT / "docs" / page).read_text()
    assert tables.written(text, tables.PAGES[page]) == text, "run: python scripts/settings_table.py"


@pytest.mark.parametrize("settings", list(shown_settings()))
def test_the_settings_that_the_docs_show_are_accepted(settings):
    def accepted(objective):
        try:
            return stage_config(merged(read_recipe("laptop").settings(objective, 3), settings))
        except ModelError:
            return None

    assert any(accepted(objective) for objective in ("reconstruction", "swav", "adversarial", "diffusion"))


def test_every_setting_of_a_stage_is_in_a_table_by_the_path_that_json_has(tables):
    text = (ROOT / "docs" / "reference" / "pretraining.md").read_text()
    config = read_recipe("laptop").config("swav").model_dump()

    def paths(settings, above=""):
        for name, value in settings.items():
            if isinstance(value, dict) and name not in {"settings", "network", "views"}:
                yield from paths(value, f"{above}{name}.")
            else:
                yield f"{above}{name}"

    wanted = {*paths(config), *paths(config["settings"]), *paths(config["settings"]["views"]["volume"])}
    assert not [path for path in wanted - {"settings", "network"} if f"| `{path}` |" not in text]


def test_the_bounds_in_the_tables_are_those_that_are_enforced(tables):
    assert "| `loop.batch_size` | `8` | from 1 to 4096 |" in tables.stage()
    assert "| `loop.clip_norm` | `null` | above 0 or `null` |" in tables.stage()
    for name, wrong in (("batch_size", 4097), ("clip_norm", 0)):
        with pytest.raises(ModelError, match=name):
            stage_config(merged(read_recipe("quick").settings("reconstruction", 3), {"loop": {name: wrong}}))


def test_every_setting_of_tuning_is_in_its_table_and_those_that_the_page_shows_are_accepted():
    text = (ROOT / "docs" / "reference" / "tuning.md").read_text()
    for piece in re.findall(r"```json\n(.*?)```", text, re.DOTALL):
        assert TuneConfig.model_validate_json(piece) != TuneConfig()
    settings = TuneConfig().model_dump()
    names = [name for name in settings if name != "lora"] + [f"lora.{name}" for name in settings["lora"]]
    assert not [name for name in names if f"| `{name}` |" not in text]
