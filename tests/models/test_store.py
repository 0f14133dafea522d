import errno
import hashlib
import json
import os

import pytest
import torch
from networks import random_image, tiny_model, tiny_network
from safetensors.torch import load_file, save_file

from napari_pcs import files
from napari_pcs.errors import ModelError, SessionError
from napari_pcs.models.folders import ModelFolder, find_model, list_models
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.resnet import ResNet18, ResNetConfig
from napari_pcs.models.store import load_network, load_segmenter, save_network


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
        (
            lambda w: w.update({"class_head.out.bias": torch.ones(4)}),
            r"1 of another shape \(class_head\.out\.bias 4 for 3\)",
        ),
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
    with pytest.raises(ModelError, match="no complete safetensors file"):
        load_network(model)


def test_a_model_is_never_overwritten(model):
    before = {p.name: p.read_bytes() for p in model.path.iterdir()}
    with pytest.raises(ModelError, match="Model tiny: found a model of that name already"):
        save_network(tiny_network(seed=9), model.path, "another")
    assert {p.name: p.read_bytes() for p in model.path.iterdir()} == before


@pytest.mark.parametrize("allowed", [0, 1000, 16_000_000])
def test_a_full_disk_leaves_nothing_that_could_be_taken_for_a_model(tmp_path, monkeypatch, allowed):
    """The disk refuses after so many bytes: at once, within the weights, or after them."""
    written, fdopen = [0], os.fdopen

    class Full:
        def __init__(self, handle, mode):
            self.stream = fdopen(handle, mode)

        def write(self, content):
            written[0] += len(content)
            if written[0] > allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.stream.write(content)

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fdopen", Full)
        card = "x" * 1_000_000
        with pytest.raises(SessionError, match="the disk is full"):
            save_network(tiny_network(), tmp_path / "m", card)
    assert list(tmp_path.iterdir()) == []
    assert load_network(tiny_model(tmp_path, "m"))


def test_an_interruption_between_the_files_leaves_nothing_either(tmp_path, monkeypatch):
    def crash(contents):
        first, *_, last = contents
        first.parent.mkdir(parents=True)
        first.write_bytes(contents[first])
        assert last.name == "config.json"
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_pcs.models.writing.write_together", crash)
    with pytest.raises(KeyboardInterrupt):
        tiny_model(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert ModelFolder(tmp_path / "tiny") not in list_models(tmp_path)


# Weights in part


def test_weights_cut_short_are_refused_whatever_the_digest_says(model):
    path = model.path / "weights.safetensors"
    content = path.read_bytes()[:-1000]
    path.write_bytes(content)
    with pytest.raises(ModelError, match="found weights with digest"):
        load_network(model)
    (model.path / "digest").write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(ModelError, match="no complete safetensors file"):
        load_network(model)


def test_the_shape_found_and_the_shape_expected_are_both_said(model):
    rewrite(model, lambda w: w.update({"class_head.out.weight": torch.ones(4, 7)}))
    with pytest.raises(ModelError, match=r"1 of another shape \(class_head\.out\.weight 4x7 for 3x193\)"):
        load_network(model)


def test_weights_of_another_network_are_refused_with_what_is_missing_and_unexpected(model):
    (model.path / "config.json").write_text(ResNetConfig().model_dump_json())
    with pytest.raises(ModelError, match=r"120 missing \(bn1\.bias, .*\.\.\.\); 1\d\d unexpected \(backbone\."):
        load_network(model)


def test_an_unknown_architecture_is_refused_with_those_there_are(model):
    (model.path / "config.json").write_text('{"architecture": "vgg"}')
    with pytest.raises(ModelError, match=r"'vgg' .*'swin_unetr'.*'resnet18'"):
        load_network(model)


def test_indices_that_16_bits_would_round_are_kept_in_half_precision(tmp_path):
    """The relative positions of a window of 7 are numbered to 13 x 13 x 13 = 2197; float16 is exact to 2048."""
    network = tiny_network(window_size=7)
    loaded = load_network(save_network(network, tmp_path / "m", "", half=True))
    name = "backbone.swinViT.layers1.0.blocks.0.attn.relative_position_index"
    assert loaded.get_buffer(name).max() == 13**3 - 1
    assert torch.equal(loaded.get_buffer(name), network.get_buffer(name))


# Other networks, and where they come from


def lineage(*parts_of_stages):
    return Lineage(
        stages=tuple(
            Stage(name=f"s{i}", objective="reconstruction", data="a | b", epochs=i, parts=parts)
            for i, parts in enumerate(parts_of_stages)
        )
    )


def test_a_resnet_comes_back_with_its_statistics_and_labels_no_voxels(tmp_path):
    network = ResNet18(ResNetConfig(classes=4)).train()
    network(torch.rand((2, 3, 32, 32)))
    model = save_network(network, tmp_path / "r", "")
    loaded = load_network(model)
    assert type(loaded) is ResNet18
    for name, tensor in network.state_dict().items():
        found = loaded.state_dict()[name]
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
    with pytest.raises(ModelError, match="Model r: found the network resnet18, which labels no voxels"):
        load_segmenter(model)


def test_the_last_stage_gets_the_digest_and_all_stages_are_in_the_card(tmp_path):
    first = lineage(("stem", "encoder")).ending_with("ab" * 32)
    stages = Lineage(stages=(*first.stages, *lineage((), ("heads",)).stages[1:]))
    model = save_network(tiny_network(), tmp_path / "m", "# m\n\nA card.\n", lineage=stages)
    assert [stage.digest for stage in model.lineage.stages] == ["ab" * 32, model.digest]
    assert model.lineage == stages.ending_with(model.digest)
    assert model.summary == "A card."
    rows = model.card.split("## Lineage")[1].strip().splitlines()
    assert rows[2:] == [
        f"| s0 | reconstruction | a \\| b | 0 | stem, encoder | {'ab' * 32} |",
        f"| s1 | reconstruction | a \\| b | 1 | heads | {model.digest} |",
    ]


def test_what_was_only_pre_trained_is_refused_except_for_tuning(tmp_path):
    model = save_network(tiny_network(), tmp_path / "p", "", lineage=lineage(("stem", "encoder"), ("decoder",)))
    assert not model.has_trained_heads
    with pytest.raises(ModelError, match="a pre-trained network without trained heads, expected a tuned one: tune"):
        load_segmenter(model)
    assert load_segmenter(model, to_tune=True)
    assert load_network(model)


@pytest.mark.parametrize(
    "stages", [(("heads",),), (("stem", "encoder"), ("decoder", "heads")), (("heads",), ("stem",))]
)
def test_heads_that_any_stage_has_trained_are_trained(tmp_path, stages):
    model = save_network(tiny_network(), tmp_path / "m", "", lineage=lineage(*stages))
    assert model.has_trained_heads
    assert load_segmenter(model)


def test_the_shipped_model_has_no_lineage_and_is_complete():
    model = find_model("starter")
    assert model.lineage == Lineage()
    assert model.has_trained_heads
    assert load_segmenter(model).config.feature_size == 12


def test_a_damaged_lineage_is_refused(model):
    (model.path / "lineage.json").write_text('{"stages": [{}]}')
    with pytest.raises(ModelError, match=r"Model tiny: found a lineage\.json that cannot be read"):
        load_segmenter(model)
