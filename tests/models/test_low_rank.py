import re

import pytest
import torch
from adapted import NETWORKS, VARIANTS, adapted, tiny_resnet
from denoisers import tiny_denoiser
from networks import tiny_network
from torch import nn

from napari_pcs.errors import ModelError
from napari_pcs.models import lora
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.models.low_rank import Adapter, Places, merged_weights, places
from napari_pcs.models.parts import PARTS

SWIN = [f"backbone.swinViT.layers{i}.0.blocks.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]


def inside(network, part):
    """Names of all modules within a part, and of the part's own."""
    return {
        f"{name}.{inner}" if inner else name for name, m in network.modules_of(part) for inner, _ in m.named_modules()
    }


def test_swin_unetr_offers_attention_and_perceptron_of_every_block_and_nothing_else():
    found = places(tiny_network())
    assert sorted(found.pairs) == sorted(
        f"{block}.{name}" for block in SWIN for name in ("attn.qkv", "attn.proj", "mlp.linear1", "mlp.linear2")
    )
    assert found.heads == ("backbone.out", "class_head")


def test_the_convolution_that_cuts_the_image_into_tokens_is_not_taken_for_a_projection():
    network = tiny_network()
    assert isinstance(network.get_submodule("backbone.swinViT.patch_embed.proj"), nn.Conv3d)
    for convolutions in (False, True):
        assert "backbone.swinViT.patch_embed.proj" not in places(network, convolutions=convolutions).pairs


@pytest.mark.parametrize("dim", [4, None])
def test_the_denoiser_offers_its_attention_but_not_what_the_time_step_goes_through(dim):
    found = places(tiny_denoiser(cross_attention_dim=dim))
    assert {name.rpartition(".")[2] for name in found.pairs} >= {"to_q", "to_k", "to_v", "out_proj"}
    assert not [name for name in found.pairs if "time_emb" in name]
    assert found.heads == ("segmentation_head", "class_head")


def test_a_network_without_linear_layers_offers_its_convolutions_or_says_that_there_is_nothing():
    network = tiny_resnet()
    with pytest.raises(ModelError, match=r"resnet18: found no linear layers in its encoder, .* convolutions too"):
        places(network)
    found = places(network, convolutions=True)
    assert len(found.pairs) == 19  # 16 of the blocks, and 3 that halve what skips them
    assert found.heads == ("fc",)


@pytest.mark.parametrize("kind", NETWORKS)
def test_only_the_encoder_gets_pairs_whatever_is_asked_for(kind):
    network = NETWORKS[kind][0]()
    found = places(network, convolutions=True)
    encoder = inside(network, "encoder")
    convolutions = {name for name in encoder if isinstance(network.get_submodule(name), nn.Conv2d | nn.Conv3d)}
    assert convolutions <= set(found.pairs) <= encoder
    for part in PARTS:
        assert part == "encoder" or not inside(network, part) & set(found.pairs)


def naively(weight, down, up, scale, length=None):
    """The changed weights, one output at a time."""
    changed = torch.empty_like(weight)
    for o in range(len(weight)):
        changed[o] = weight[o] + scale * sum(up[o, k].squeeze() * down[k] for k in range(len(down)))
        if length is not None:
            changed[o] *= length.flatten()[o] / changed[o].pow(2).sum().sqrt()
    return changed


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_merged_weights_are_the_papers_formula(settings):
    """W + alpha / r B A, or alpha / sqrt(r); with DoRA, each output's weights at their trained length."""
    plain = tiny_network()
    adapter = lora.adapter_of(adapted(tiny_network(), settings))
    merged = merged_weights(plain, adapter)
    scale = settings.alpha / (settings.rank**0.5 if settings.rslora else settings.rank)
    chosen = [adapter.places.pairs[0], adapter.places.pairs[-1]]  # with convolutions, the last is one
    for name in chosen:
        found = merged[f"{name}.weight"]
        down, up = (adapter.state[f"{name}.lora_{half}.weight"] for half in "AB")
        length = adapter.state[f"{name}.lora_magnitude_vector"] if settings.dora else None
        expected = naively(plain.get_parameter(f"{name}.weight").detach(), down, up, scale, length)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert merged.keys() == {f"{name}.weight" for name in adapter.places.pairs} | {
        name for name in plain.state_dict() if name.startswith(("backbone.out.", "class_head."))
    }


def test_a_hand_computed_pair():
    """(1, 2) (3, 4) plus 6 / 2 times (1, 2)^T (1, 0) plus (0, 1)^T (0, 1)."""
    network = nn.Sequential(nn.Linear(2, 2))
    network[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    state = {"0.lora_A.weight": torch.eye(2), "0.lora_B.weight": torch.tensor([[1.0, 0.0], [2.0, 1.0]])}
    for settings, scale in ((LoraConfig(rank=2, alpha=6), 3.0), (LoraConfig(rank=2, alpha=6, rslora=True), 6 / 2**0.5)):
        found = merged_weights(network, Adapter(settings, Places(("0",), ()), state))["0.weight"]
        torch.testing.assert_close(found, torch.tensor([[1 + scale, 2.0], [3 + 2 * scale, 4 + scale]]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.state.pop(f"{SWIN[0]}.attn.qkv.lora_A.weight"), r"1 missing \(.*qkv\.lora_A\.weight\)"),
        (lambda a: a.state.update(extra=torch.ones(2)), r"1 unexpected \(extra\)"),
        (
            lambda a: a.state.update({"class_head.out.bias": torch.ones(4)}),
            r"1 of another shape \(class_head\.out\.bias 4 for 3\)",
        ),
        (lambda a: a.state["class_head.out.bias"].fill_(float("nan")), r"not finite \(class_head\.out\.bias\)"),
    ],
    ids=["missing", "unexpected", "of another shape", "not finite"],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(change, said):
    adapter = lora.adapter_of(adapted(tiny_network(), NETWORKS["swin_unetr"][1]))
    change(adapter)
    with pytest.raises(ModelError, match=f"Model mine: found an adapter with .*{said}"):
        adapter.fitting(tiny_network(), "mine")


@pytest.mark.parametrize("place", ["backbone.decoder1.conv_block.conv1.conv", "layer1.0.conv1", "backbone.swinViT"])
def test_an_adapter_of_something_outside_the_encoder_is_refused(place):
    adapter = lora.adapter_of(adapted(tiny_network(), NETWORKS["swin_unetr"][1]))
    moved = adapter.places._replace(pairs=(*adapter.places.pairs, place))
    with pytest.raises(ModelError, match=rf"1 places that swin_unetr has not \({re.escape(place)}\)"):
        Adapter(adapter.settings, moved, adapter.state).fitting(tiny_network(), "mine")


def test_an_adapter_of_a_larger_network_is_refused():
    adapter = lora.adapter_of(adapted(tiny_network(), NETWORKS["swin_unetr"][1]))
    with pytest.raises(ModelError, match=r"do not fit swin_unetr, \d+ of another shape"):
        adapter.fitting(tiny_network(feature_size=24), "mine")
