import hashlib
import json

import pytest
import torch
from networks import random_image, tiny_model, tiny_network
from safetensors.torch import load_file, save_file

from napari_pcs.errors import ModelError
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.store import load_network, save_network


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path)


def rewrite(model, change):
    """Change the weights of a model and record their new digest, as an honest but mistaken tool would."""
    path = model.path / "weights.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    (model.path / "digest").write_text(hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_network_comes_back_bit_for_bit_and_predicts_the_same(tmp_path):
    network = tiny_network(seed=5)
    loaded = load_network(save_network(network, tmp_path / "m", "# m\n"))
    assert loaded.config == network.config
    assert not loaded.training
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with torch.inference_mode():
        image = random_image()
        assert torch.equal(network(image).logits, loaded(image).logits)


def test_a_folder_holds_what_it_says_and_the_digest_is_that_of_the_weights(tmp_path):
    model = save_network(tiny_network(window_size=7), tmp_path / "m", "# m\n\nA card.\n")
    assert sorted(p.name for p in model.path.iterdir()) == ["card.md", "config.json", "digest", "weights.safetensors"]
    assert json.loads((model.path / "config.json").read_text()) == {
        "architecture": "swin_unetr",
        "feature_size": 12,
        "window_size": 7,
        "position": True,
        "flash_attention": True,
        "gradient_checkpointing": False,
    }
    assert model.digest == hashlib.sha256((model.path / "weights.safetensors").read_bytes()).hexdigest()
    assert model.card == "# m\n\nA card.\n"


def test_the_digest_follows_the_weights_and_nothing_else(tmp_path):
    one, same, other = (tiny_model(tmp_path, name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert one.digest == same.digest
    assert one.digest != other.digest


def test_half_precision_halves_the_file_and_loads_rounded_weights(tmp_path):
    network = tiny_network()
    full, half = (save_network(network, tmp_path / str(h), "", half=h) for h in (False, True))
    sizes = [(m.path / "weights.safetensors").stat().st_size for m in (full, half)]
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.01)
    loaded = load_network(half)
    for name, weight in network.named_parameters():
        found = loaded.get_parameter(name)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, weight.half().float(), atol=0, rtol=0)
    for name, buffer in network.named_buffers():
        assert torch.equal(loaded.get_buffer(name), buffer)


def test_weights_that_were_altered_are_refused(model):
    path = model.path / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()[:12]
    with pytest.raises(ModelError, match=f"digest {found}, expected {model.digest[:12]}"):
        load_network(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("class_head.out.bias"), r"1 missing \(class_head\.out\.bias\)"),
        (lambda w: w.update(extra=torch.ones(2)), r"1 unexpected \(extra\)"),
        (lambda w: w.update({"class_head.out.bias": torch.ones(4)}), r"1 of another shape \(class_head\.out\.bias\)"),
    ],
    ids=["missing", "unexpected", "of another shape"],
)
def test_weights_that_do_not_fit_exactly_are_refused_by_name(model, change, message):
    rewrite(model, change)
    with pytest.raises(ModelError, match=message):
        load_network(model)


def test_every_problem_is_counted_and_a_few_names_are_shown(model):
    removed = [f"backbone.swinViT.layers{i}.0.blocks.0.attn.qkv.weight" for i in (1, 2, 3, 4)]
    removed += [f"backbone.swinViT.layers{i}.0.blocks.1.attn.qkv.weight" for i in (1, 2, 3, 4)]

    def change(weights):
        for name in removed:
            weights["old." + name] = weights.pop(name)

    rewrite(model, change)
    with pytest.raises(ModelError, match=r"8 missing .* 8 unexpected") as error:
        load_network(model)
    assert sum(name in str(error.value).split("unexpected")[0] for name in removed) == 5


def test_weights_of_another_configuration_are_refused(model):
    config = model.path / "config.json"
    config.write_text(config.read_text().replace('"feature_size": 12', '"feature_size": 24'))
    with pytest.raises(ModelError, match="of another shape"):
        load_network(model)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "digest"])
def test_an_incomplete_folder_is_refused(model, name):
    (model.path / name).unlink()
    with pytest.raises(ModelError, match=rf"Model tiny: found .*{'digest' if name == 'digest' else name}"):
        load_network(model)


@pytest.mark.parametrize("content", ["", "{", '{"feature_size": 13}', '{"architecture": "unet"}', "[]"])
def test_an_unknown_configuration_is_refused(model, content):
    (model.path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="Model tiny: found an incomplete or unknown folder"):
        load_network(model)


def test_weights_that_are_no_safetensors_file_are_refused_even_with_the_right_digest(model):
    content = b"not weights"
    (model.path / "weights.safetensors").write_bytes(content)
    (model.path / "digest").write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(ModelError, match="no safetensors file"):
        load_network(model)


def test_a_model_is_never_overwritten(model):
    before = {p.name: p.read_bytes() for p in model.path.iterdir()}
    with pytest.raises(ModelError, match="Model tiny: found a model of that name already"):
        save_network(tiny_network(seed=9), model.path, "another")
    assert {p.name: p.read_bytes() for p in model.path.iterdir()} == before


def test_a_folder_without_its_config_is_not_yet_a_model(tmp_path, monkeypatch):
    """The config is written last: a crash before it leaves nothing that would be listed."""
    from napari_pcs.models import store
    from napari_pcs.models.folders import list_models

    def crash(path, content):
        assert sorted(p.name for p in path.parent.iterdir()) == ["card.md", "digest", "weights.safetensors"]
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        tiny_model(tmp_path)
    assert ModelFolder(tmp_path / "tiny") not in list_models(tmp_path)
