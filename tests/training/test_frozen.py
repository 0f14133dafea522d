import pytest
import torch
from networks import tiny_network

from napari_pcs.models.graph import DECODED, FEATURES, IMAGE
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.strategies import prepare
from napari_pcs.training.frozen import value_names, values_digest

TOP = ("up16", "eighth", "quarter", "half", "full", "features")


def prepared(strategy, **options):
    network = tiny_network(**options)
    prepare(network, strategy, lora=LoraConfig(), seed=0)
    return network


@pytest.mark.parametrize(
    ("strategy", "names"),
    [
        ("top", TOP),
        ("decoder", ("half", "quarter", "eighth", "sixteenth", "bottleneck", "full", "features")),
        ("full", (IMAGE,)),
        ("scratch", (IMAGE,)),
    ],
)
def test_what_is_kept_is_what_the_trained_part_reads(strategy, names):
    assert sorted(value_names(prepared(strategy))) == sorted(names)


def digest(network, *wanted):
    return values_digest(network, value_names(network), wanted)


@pytest.mark.parametrize(
    ("weight", "wanted", "differs"),
    [
        ("backbone.swinViT.patch_embed.proj.weight", (FEATURES,), True),
        ("backbone.decoder1.conv_block.conv1.conv.weight", (FEATURES,), False),
        ("backbone.decoder1.conv_block.conv1.conv.weight", (FEATURES, DECODED), True),
        ("backbone.out.conv.conv.weight", (FEATURES, DECODED), False),
    ],
    ids=["what is kept comes from it", "it trains", "it trains and is measured", "no value comes from it"],
)
def test_the_digest_is_of_the_weights_on_the_way_to_what_is_kept_and_wanted(weight, wanted, differs):
    network = prepared("top")
    before = digest(network, *wanted)
    with torch.no_grad():
        network.get_parameter(weight).add_(1e-3)
    assert (digest(network, *wanted) != before) == differs


def test_how_attention_is_computed_is_no_part_of_the_digest():
    one, other = (prepared("top", flash_attention=fused) for fused in (True, False))
    assert digest(one, FEATURES) == digest(other, FEATURES)
    assert digest(prepared("top", seed=1), FEATURES) != digest(one, FEATURES)
