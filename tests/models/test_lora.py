import pytest
import torch
from adapted import NETWORKS, VARIANTS, adapted, close, differ, image_for, loss_of, outputs, tiny_resnet
from networks import random_image, tensors_of, tiny_network
from torch import nn

from napari_pcs.errors import ModelError
from napari_pcs.models import lora
from napari_pcs.models.graph import DECODED, FEATURES, IMAGE, evaluate, kept_nodes
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.models.low_rank import places

QKV = "backbone.swinViT.layers1.0.blocks.0.attn.qkv"
PATCH = (64, 32, 32)


def own_names(network):
    """Names of the weights that an adapter has of its own, from the names that peft gives them."""
    marks = (".lora_A.default.", ".lora_B.default.", ".lora_magnitude_vector.default.", ".modules_to_save.default.")
    return {name for name, _ in network.named_parameters() if any(mark in name for mark in marks)}


@pytest.mark.parametrize("kind", NETWORKS)
def test_at_first_a_network_says_what_it_said_bit_for_bit(kind):
    build, settings = NETWORKS[kind]
    network = build()
    before = outputs(network)
    lora.inject(network, settings)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(network), strict=True))
    assert type(network) is type(build())


def test_at_first_dora_changes_nothing_but_rounding():
    network = tiny_network()
    before = outputs(network)
    lora.inject(network, LoraConfig(dora=True))
    assert differ(before, outputs(network)) < 1e-6


@pytest.mark.parametrize(
    ("settings", "scale"), [(LoraConfig(rank=2, alpha=6), 3), (LoraConfig(rank=2, alpha=6, rslora=True), 6 / 2**0.5)]
)
def test_a_layer_says_what_the_formula_says(settings, scale):
    """Of one layer by itself: W x + b + s B A x (Hu et al. 2022, equation 3)."""
    network = adapted(tiny_network(), settings)
    layer = network.get_submodule(QKV)
    x = torch.rand((5, 12), generator=torch.Generator().manual_seed(0))
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + scale * (x @ down.T) @ up.T
        torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)


def test_a_dora_layer_gives_each_output_its_trained_length():
    """m (W + s B A) x / |W + s B A|, the norm over each output's weights (Liu et al. 2024, equation 5)."""
    network = adapted(tiny_network(), LoraConfig(rank=2, alpha=6, dora=True))
    layer = network.get_submodule(QKV)
    x = torch.rand((5, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        direction = layer.base_layer.weight + 3 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        length = layer.lora_magnitude_vector["default"].weight
        expected = torch.stack([m * (x @ v) / v.square().sum().sqrt() for m, v in zip(length, direction, strict=True)])
        torch.testing.assert_close(layer(x), expected.T + layer.base_layer.bias, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_gradients_are_on_for_the_pairs_and_the_heads_copies_only(settings):
    network = tiny_network()
    where = places(network, convolutions=settings.convolutions)
    lora.inject(network, settings)
    training = {name for name, p in network.named_parameters() if p.requires_grad}
    assert training == own_names(network)
    each = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if settings.dora else set())
    assert {name.split(".lora_")[0] for name in training if ".lora_" in name} == set(where.pairs)
    assert sum(".lora_" in name for name in training) == len(each) * len(where.pairs)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dora", [False, True])
def test_one_step_moves_exactly_the_pairs_and_the_heads_and_nothing_else_by_a_bit(kind, dora):
    build, settings = NETWORKS[kind]
    network = build()
    lora.inject(network, settings.model_copy(update={"dora": dora}))
    # As soon as the second weight of a pair is no longer 0, the first one has a gradient too.
    for name, weight in network.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(weight, std=0.01)
    for module in lora.trained_modules(network):
        module.train()
    before = tensors_of(network)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    loss_of(network, image_for(network, batch=2)).backward()
    optimiser.step()
    moved = {name for name, tensor in tensors_of(network).items() if not torch.equal(tensor, before[name])}
    assert moved == own_names(network)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_merging_changes_the_output_by_less_than_1e_5_and_gives_a_plain_network(settings):
    network = tiny_network()
    before, names = outputs(network), list(network.state_dict())
    adapted(network, settings)
    tuned = outputs(network)
    assert differ(before, tuned) > 0.01
    merged = lora.merged_copy(network)
    assert differ(tuned, outputs(network)) == 0
    close(tuned, outputs(merged))
    assert list(merged.state_dict()) == names
    assert {type(module) for module in merged.modules()} == {type(module) for module in tiny_network().modules()}
    lora.merge(network)
    assert differ(outputs(merged), outputs(network)) == 0


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_is_merged(kind):
    build, settings = NETWORKS[kind]
    network = adapted(build(), settings)
    tuned = outputs(network)
    lora.merge(network)
    close(tuned, outputs(network))


def test_pairs_of_2d_convolutions_are_merged_too():
    network = adapted(tiny_resnet(dimensions=2), LoraConfig(rank=2, convolutions=True))
    image = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    tuned = outputs(network, image)
    lora.merge(network)
    close(tuned, outputs(network, image))


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_an_adapter_put_into_a_fresh_network_says_the_same_bit_for_bit(settings):
    network = adapted(tiny_network(), settings)
    fresh = tiny_network()
    generator = torch.get_rng_state()
    lora.attach(fresh, lora.adapter_of(network))
    assert torch.equal(torch.get_rng_state(), generator)
    assert differ(outputs(network), outputs(fresh)) == 0
    assert not any(p.requires_grad for p in fresh.parameters())


def test_injecting_the_same_adapter_again_keeps_its_weights_and_turns_its_gradients_on_again():
    network = adapted(tiny_network(), LoraConfig())
    before = outputs(network)
    network.requires_grad_(requires_grad=True)
    lora.inject(network, LoraConfig())
    assert {name for name, p in network.named_parameters() if p.requires_grad} == own_names(network)
    assert differ(before, outputs(network)) == 0


@pytest.mark.parametrize(("settings", "name"), [(LoraConfig(rank=4), "default"), (LoraConfig(), "second")])
def test_a_network_with_another_adapter_is_refused_and_left_as_it_is(settings, name):
    network = adapted(tiny_network(), LoraConfig())
    before = outputs(network)
    with pytest.raises(ModelError, match=r"found the adapter default in it, .* Merge it first"):
        lora.inject(network, settings, name)
    assert differ(before, outputs(network)) == 0


def test_after_merging_another_adapter_can_be_put_in():
    network = adapted(tiny_network(), LoraConfig())
    lora.merge(network)
    before = outputs(network)
    lora.inject(network, LoraConfig(rank=2), "second")
    assert differ(before, outputs(network)) == 0


def test_an_adapter_that_is_no_number_is_not_merged_and_the_base_is_left():
    network = tiny_network()
    before = outputs(network)
    lora.inject(network, LoraConfig())
    lora.adapter_state(network)[f"{QKV}.lora_A.weight"].fill_(float("inf"))
    with pytest.raises(ModelError, match="numbers that are not finite"):
        lora.merge(network)
    assert differ(before, outputs(network)) == 0


@pytest.mark.parametrize("training", [False, True])
def test_injecting_leaves_the_network_in_the_mode_that_it_was_in(training):
    network = tiny_network().train(training)
    lora.inject(network, LoraConfig(dropout=0.5))
    assert {module.training for module in network.modules()} == {training}


@pytest.mark.parametrize("dora", [False, True])
def test_inputs_of_the_pairs_are_dropped_while_they_train_and_never_otherwise(dora):
    network = adapted(tiny_network(), LoraConfig(dropout=0.5, dora=dora))
    layer, x = network.get_submodule(QKV), torch.ones((4, 12))
    still = layer(x)
    assert torch.equal(layer(x), still)
    for module in lora.trained_modules(network):
        module.train()
    assert not torch.equal(layer(x), layer(x))


def test_what_is_in_training_mode_holds_all_that_trains_and_no_statistics():
    network = adapted(tiny_resnet(), LoraConfig(rank=2, convolutions=True))
    lora.inject(network, LoraConfig(rank=2, convolutions=True))
    held = {id(p) for module in lora.trained_modules(network) for p in module.parameters()}
    assert {id(p) for p in network.parameters() if p.requires_grad} <= held
    assert not [b for module in lora.trained_modules(network) for b in module.buffers()]


def test_a_network_with_an_adapter_is_computed_piece_by_piece_as_in_one():
    network = adapted(tiny_network(), LoraConfig())
    image = random_image(PATCH)
    with torch.inference_mode():
        decoded, features = evaluate(network.nodes(), {IMAGE: image}, (DECODED, FEATURES)).values()
        expected = network(image)
        assert torch.equal(network.segment(decoded, features).logits, expected.logits)
        assert torch.equal(network.decode(network.encode(image)), decoded)
        assert torch.equal(network.embed(image), expected.features)


def test_what_lies_before_the_first_pair_is_worth_keeping():
    network = tiny_network()
    lora.inject(network, LoraConfig())
    assert {node.name for node in kept_nodes(network, network.nodes())} == {"tokens0", "half", "full"}


def test_a_step_of_the_heads_copies_leaves_the_originals():
    network = tiny_network()
    original = network.backbone.out.conv.conv.weight
    lora.inject(network, LoraConfig())
    assert network.backbone.out.original_module.conv.conv.weight is original
    assert network.backbone.out.modules_to_save["default"].conv.conv.weight is not original
