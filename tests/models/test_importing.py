import hashlib
import re

import pytest
import torch
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import filter_swinunetr
from monai.networks.utils import copy_model_state
from published import SMALL, model_swinvit, monai_network, ssl_pretrained_weights, torchvision_resnet18
from safetensors.torch import save_file

from napari_pcs.errors import ModelError
from napari_pcs.models import importing
from napari_pcs.models.importing import import_weights
from napari_pcs.models.store import load_network, load_segmenter

SWIN = "monai-swin-unetr"


@pytest.fixture
def small(monkeypatch):
    """Swin-UNETR of feature size 12: two hundred times fewer weights than the published one."""
    recipe = importing._RECIPES[SWIN]
    config = recipe.config.model_copy(update={"feature_size": SMALL})
    monkeypatch.setitem(importing._RECIPES, SWIN, recipe._replace(config=config))


@pytest.fixture
def keep(tmp_path):
    def write(content, name="weights.pth"):
        path = tmp_path / name
        save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
        return path

    return write


def changed(content, change):
    state = content.get("state_dict", content.get("model", content))
    change(state)
    return content


def test_published_weights_of_full_size_land_where_monai_itself_puts_them(keep, tmp_path):
    content = model_swinvit(feature_size=48)
    model = import_weights(keep(content, "model_swinvit.pt"), SWIN, tmp_path / "monai")
    network = load_network(model)
    assert network.config.feature_size == 48
    assert network.config.in_channels == 1
    monai = SwinUNETR(in_channels=1, out_channels=2, feature_size=48)
    monai.load_from(content)
    torch.testing.assert_close(
        dict(network.backbone.swinViT.state_dict()), dict(monai.swinViT.state_dict()), atol=0, rtol=0
    )


def test_weights_with_convolutions_and_decoder_land_where_monai_puts_them_and_nothing_but_heads_is_random(
    small, keep, tmp_path
):
    content = ssl_pretrained_weights()
    network = load_network(import_weights(keep(content), SWIN, tmp_path / "m"))
    monai = SwinUNETR(in_channels=1, out_channels=2, feature_size=SMALL)
    copy_model_state(monai, content["model"], filter_func=filter_swinunetr)
    torch.testing.assert_close(
        dict(network.backbone.swinViT.state_dict()), dict(monai.swinViT.state_dict()), atol=0, rtol=0
    )
    source = monai_network().state_dict()
    for name in ("encoder1", "encoder10", "decoder5", "decoder1"):
        for inner, tensor in network.backbone.get_submodule(name).state_dict().items():
            assert torch.equal(tensor, source[f"{name}.{inner}"])


def test_the_lineage_names_file_and_parts_and_the_card_what_is_still_random(small, keep, tmp_path):
    source = keep(model_swinvit(), "model_swinvit.pt")
    model = import_weights(source, SWIN, tmp_path / "m")
    (stage,) = model.lineage.stages
    assert (stage.name, stage.objective, stage.parts) == ("m", "imported: model_swinvit.pt", ("stem", "encoder"))
    assert hashlib.sha256(source.read_bytes()).hexdigest() in stage.data
    assert stage.digest == model.digest
    random = re.findall(r"^- (\w+): ([\w.]+)$", model.card.split("## Still random")[1], re.MULTILINE)
    assert random == [
        *(("encoder", f"backbone.encoder{i}") for i in (1, 2, 3, 4, 10)),
        *(("decoder", f"backbone.decoder{i}") for i in (5, 4, 3, 2, 1)),
        ("heads", "backbone.out"),
        ("heads", "class_head"),
    ]
    assert "module.rotation_head.weight" in model.card
    both = import_weights(keep(ssl_pretrained_weights()), SWIN, tmp_path / "n")
    assert both.lineage.stages[0].parts == ("stem", "encoder", "decoder")
    with pytest.raises(ModelError, match="without trained heads"):
        load_segmenter(both)
    assert load_segmenter(both, to_tune=True)


def test_what_the_file_does_not_have_depends_on_the_seed_alone(small, keep, tmp_path):
    source = keep(model_swinvit())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = import_weights(source, SWIN, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = (import_weights(source, SWIN, tmp_path / name, seed=seed) for name, seed in (("b", 0), ("c", 1)))
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize("name", ["resnet18-f37072fd.pth", "model.safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_resnet_comes_in_without_its_classes_and_with_its_statistics(keep, tmp_path, name, prefix):
    state = {f"{prefix}{key}": tensor for key, tensor in torchvision_resnet18().items()}
    model = import_weights(keep(state, name), "resnet18", tmp_path / "r")
    network = load_network(model)
    found = network.state_dict()
    for key, tensor in torchvision_resnet18().items():
        assert key.startswith("fc.") or torch.equal(found[key], tensor)
    assert network.config.in_channels == 3
    assert model.lineage.stages[0].parts == ("stem", "encoder")
    assert f"{prefix}fc.weight" in model.card
    assert "- none" in model.card.split("## Still random")[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("module.layers1.0.blocks.0.attn.qkv.weight"), r"1 missing \(backbone\.swinViT\.layers1\.0\."),
        (lambda s: s.update({"module.adapter.weight": torch.ones(1)}), r"1 unexpected \(module\.adapter\.weight\)"),
        (
            lambda s: s.update({"module.patch_embed.proj.weight": torch.ones(12, 4, 2, 2, 2)}),
            r"of another shape \(backbone\.swinViT\.patch_embed\.proj\.weight 12x4x2x2x2 for 12x1x2x2x2\)",
        ),
        (
            lambda s: s.update({"encoder1.layer.conv1.conv.weight": torch.ones(12, 1, 3, 3, 3)}),
            r"2 missing \(backbone\.e",
        ),
    ],
    ids=["missing", "unexpected", "position channels", "half of a module"],
)
def test_what_does_not_fit_is_refused_by_name_and_leaves_no_model(small, keep, tmp_path, change, message):
    source = keep(changed(model_swinvit(), change))
    with pytest.raises(ModelError, match=message):
        import_weights(source, SWIN, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_weights_of_another_network_are_refused(small, keep, tmp_path):
    with pytest.raises(ModelError, match=r"missing \(.*unexpected \(bn1\.bias"):
        import_weights(keep(torchvision_resnet18()), SWIN, tmp_path / "m")
    with pytest.raises(ModelError, match=r"missing \(.*unexpected \("):
        import_weights(keep(model_swinvit()), "resnet18", tmp_path / "m")


class Harmful:
    def __reduce__(self):
        return (open, ("harm.txt", "w"))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "none.pth", "none.safetensors"])
def test_a_file_that_is_damaged_or_not_there_is_refused(tmp_path, name):
    path = tmp_path / name
    if name.startswith("w"):
        path.write_bytes(b"PK not weights")
    with pytest.raises(ModelError, match=rf"{name}: found a file that"):
        import_weights(path, "resnet18", tmp_path / "m")


def test_a_file_that_would_run_code_is_refused_unrun(keep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="holds more than tensors"):
        import_weights(keep({"conv1.weight": Harmful()}), "resnet18", tmp_path / "m")
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], {}, {"a": 1}, {"state_dict": {"a": [1]}}])
def test_a_file_without_tensors_by_name_is_refused(keep, tmp_path, content):
    with pytest.raises(ModelError, match="found no tensors by name, expected a state dict"):
        import_weights(keep(content), "resnet18", tmp_path / "m")
