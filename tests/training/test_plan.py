import json
import math
import sys

import pytest
from pretraining import TISSUE, plan, stage

from napari_pcs.errors import ModelError
from napari_pcs.objectives import base, find_objective
from napari_pcs.training.plan import load_objective_file, read_plan


@pytest.fixture(autouse=True)
def no_traces(monkeypatch):
    """Forget the objectives and modules of these tests."""
    monkeypatch.setattr(base, "_known", dict(base._known))
    for name in [n for n in sys.modules if n.startswith("objective_file_")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def write(tmp_path):
    def write(name, *, stem="mine", before="", after=""):
        path = tmp_path / f"{stem}.py"
        text = TISSUE.read_text().replace('name = "tissue"', f'name = "{name}"').replace("Tissue(", f"{name.title()}(")
        path.write_text(before or f"{text}\n\n{after}\n")
        return path

    return write


def test_a_file_defines_an_objective_that_is_found_by_its_name(write):
    assert load_objective_file(write("eighth")) == "eighth"
    assert find_objective("eighth").title == "Tissue"


def test_reading_a_file_again_after_it_changed_takes_the_new_one(write):
    load_objective_file(write("eighth"))
    first = find_objective("eighth")
    assert load_objective_file(write("ninth")) == "ninth"
    assert load_objective_file(write("eighth")) == "eighth"
    assert find_objective("eighth") is not first


def test_its_class_is_found_by_module_and_name_as_processes_that_read_ahead_look_for_it(write):
    load_objective_file(write("eighth"))
    kind = find_objective("eighth")
    assert getattr(sys.modules[kind.__module__], kind.__qualname__) is kind


def test_a_file_that_is_named_as_a_library_does_not_stand_in_for_it(write):
    load_objective_file(write("eighth", stem="math"))
    assert sys.modules["math"] is math


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "mine.py: found 0 objectives, expected one subclass of Objective with a name"),
        ("import nothing_of_that_name\n", "mine.py: found a Python file that does not run .ModuleNotFoundError"),
        ("def f(:\n", "mine.py: found a Python file that does not run .SyntaxError"),
        ("from napari_pcs.objectives.simclr import SimCLR\n", "mine.py: found 0 objectives"),
    ],
)
def test_a_file_without_an_objective_is_refused(write, text, told):
    with pytest.raises(ModelError, match=told):
        load_objective_file(write("eighth", before=text))


def test_a_name_that_is_taken_is_refused(write):
    with pytest.raises(ModelError, match=r"does not run \(TypeError: Objective simclr: found it defined in"):
        load_objective_file(write("simclr"))


def test_two_objectives_in_a_file_are_one_too_many(write):
    after = 'class Other(Eighth):\n    """Another."""\n\n    name = "other"'
    with pytest.raises(ModelError, match="found 2 objectives"):
        load_objective_file(write("eighth", after=after))


@pytest.mark.parametrize("name", ["nowhere.py", "folder.py", "notes.txt"])
def test_what_is_no_python_file_is_refused(tmp_path, name):
    path = tmp_path / name
    if name == "folder.py":
        path.mkdir()
    if name == "notes.txt":
        path.write_text("x = 1")
    with pytest.raises(ModelError, match="found no Python file, expected one that defines an Objective"):
        load_objective_file(path)


def test_a_plan_is_read_as_it_was_written_with_the_objective_of_its_file(tmp_path):
    asked = plan(tmp_path, tmp_path / "maps", stage("tissue", settings={"noise": 0.25}), init=tmp_path / "before")
    (tmp_path / "config.json").write_text(asked.model_dump_json())
    base._known.pop("tissue")
    found = read_plan(tmp_path)
    assert found.model_dump() == asked.model_dump()
    assert found.stage.settings.noise == 0.25
    assert find_objective("tissue").config_class is type(found.stage.settings)


def test_a_plan_whose_file_is_gone_says_which(tmp_path):
    content = {**json.loads(plan(tmp_path, tmp_path).model_dump_json()), "objective_file": str(tmp_path / "gone.py")}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"gone\.py: found no Python file"):
        read_plan(tmp_path)


@pytest.mark.parametrize("content", [None, "", "[]", '{"strategy": "top"}', '{"data": "maps"}'])
def test_a_folder_of_another_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"found no config\.json of a pre-training run there"):
        read_plan(tmp_path)
