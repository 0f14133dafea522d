import json
import subprocess
import sys

import pytest

from napari_pcs.errors import ModelError
from napari_pcs.models.folders import ModelFolder, find_model, free_path, list_models
from napari_pcs.provenance import ModelReference


def make(root, name, digest="ab12", card=None):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "digest").write_text(digest + "\n")
    if card is not None:
        (folder / "card.md").write_text(card)
    return folder


def shipped():
    return [m.name for m in list_models()]


def test_shipped_models_come_first_then_those_of_each_root_by_name(tmp_path):
    for name in ("b/zeta", "b/alpha", "a/mid"):
        make(tmp_path, name)
    found = [m.name for m in list_models(tmp_path / "b", tmp_path / "a")]
    assert "starter" in shipped()
    assert found == [*shipped(), "alpha", "zeta", "mid"]


def test_what_has_no_config_is_no_model(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "weights.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    make(tmp_path, "deep/inside")
    assert [m.name for m in list_models(tmp_path)] == shipped()


def test_a_root_that_does_not_exist_holds_no_models(tmp_path):
    assert [m.name for m in list_models(tmp_path / "nowhere")] == shipped()


def test_a_model_is_found_by_name_and_by_the_path_of_its_folder(tmp_path, monkeypatch):
    folder = make(tmp_path, "mine")
    expected = ModelFolder(folder)
    assert find_model("mine", tmp_path) == expected
    assert find_model(str(folder)) == expected
    monkeypatch.chdir(tmp_path)
    assert find_model("./mine") == expected
    assert find_model("starter", tmp_path).name == "starter"


def test_of_two_models_of_one_name_the_first_root_decides(tmp_path):
    first, second = make(tmp_path / "a", "mine", "11"), make(tmp_path / "b", "mine", "22")
    assert find_model("mine", first.parent, second.parent).digest == "11"
    assert find_model("mine", second.parent, first.parent).digest == "22"


def test_an_unknown_name_lists_those_there_are(tmp_path):
    make(tmp_path, "mine")
    known = ", ".join([*shipped(), "mine"])
    with pytest.raises(ModelError, match=f"Model yours: found no model .* one of: {known}, or the path"):
        find_model("yours", tmp_path)


def test_the_reference_is_the_name_and_the_recorded_digest(tmp_path):
    assert ModelFolder(make(tmp_path, "mine", "cafe")).reference == ModelReference(name="mine", digest="cafe")


def test_a_missing_digest_is_an_error_that_says_so(tmp_path):
    folder = make(tmp_path, "mine")
    (folder / "digest").unlink()
    with pytest.raises(ModelError, match="Model mine: found no digest"):
        _ = ModelFolder(folder).reference


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (None, "This model has no card."),
        ("# mine\n", "This model has no card."),
        ("# mine\n\nTuned from\n**starter**.\n\n- more\n", "Tuned from starter."),
        ("One line.", "One line."),
    ],
)
def test_the_summary_is_the_first_paragraph_of_the_card_on_one_line_as_plain_text(tmp_path, card, expected):
    assert ModelFolder(make(tmp_path, "mine", card=card)).summary == expected


def test_listing_models_does_not_load_torch():
    code = (
        "import json, sys; from napari_pcs.models.folders import list_models; names = [m.name for m in list_models()];"
        "print(json.dumps([names, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [shipped(), False]


def test_a_name_that_was_taken_meanwhile_gets_the_next_free_number(tmp_path):
    path = tmp_path / "mine"
    names = []
    for _ in range(3):
        names.append(free_path(path).name)
        free_path(path).mkdir()
    assert names == ["mine", "mine-2", "mine-3"]
