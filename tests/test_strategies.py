"""Each strategy on each network: what one real step moves, and that nothing else moves by a bit."""

import copy
import math
from typing import get_args

import pytest
import torch
from denoisers import tiny_denoiser
from networks import random_image, tiny_network
from torch import nn

from napari_pcs.errors import ModelError
from napari_pcs.models.contract import Segmenter
from napari_pcs.models.graph import IMAGE, evaluate
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.models.resnet import ResNet18, ResNetConfig
from napari_pcs.stop import StopToken
from napari_pcs.strategies import STRATEGIES, prepare, top, trained_modules, trained_parts, trained_state
from napari_pcs.training.batches import Drawn
from napari_pcs.training.config import LoopConfig, OptimiserConfig, TuneConfig
from napari_pcs.training.features import VALUE
from napari_pcs.training.frozen import value_names
from napari_pcs.training.keeper import Keeper
from napari_pcs.training.loop import Loop
from napari_pcs.training.optimiser import build_optimiser
from napari_pcs.training.processes import Processes
from napari_pcs.training.segmentation import Segmentation

PAIRS = LoraConfig(rank=2, alpha=4)
BATCH_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def resnet(dimensions, classes=4):
    torch.manual_seed(0)
    return ResNet18(ResNetConfig(dimensions=dimensions, classes=classes)).eval()


SWIN_TOP = ["backbone.out", "class_head", *(f"backbone.decoder{n}" for n in (1, 2, 3, 4))]
DENOISER_TOP = ["segmentation_head", "class_head", "backbone.out", "backbone.up_blocks.2"]
NETWORKS = {
    "swin 12": (lambda: tiny_network(position=False), SWIN_TOP),
    "swin 24": (lambda: tiny_network(feature_size=24), SWIN_TOP),
    "denoiser": (lambda: tiny_denoiser(), DENOISER_TOP),
    "denoiser without conditions": (lambda: tiny_denoiser(cross_attention_dim=None), DENOISER_TOP),
    "resnet 2-D": (lambda: resnet(2), ["fc"]),
    "resnet 3-D": (lambda: resnet(3), ["fc"]),
}
SEGMENTERS = [name for name in NETWORKS if "resnet" not in name]
PLAIN = ("top", "decoder", "full", "scratch")
PAIRED = [
    (name, strategy) for name in NETWORKS for strategy in STRATEGIES if not (strategy == "decoder" and "resnet" in name)
]


def settings(name, strategy):
    """A residual network has no linear layers to put pairs beside."""
    return PAIRS.model_copy(update={"convolutions": "resnet" in name}) if strategy == "lora" else None


def prepared(name, strategy, seed=0):
    network = NETWORKS[name][0]()
    return network, prepare(network, strategy, lora=settings(name, strategy), seed=seed)


def named_modules_of(name, strategy):
    """Written out by hand, independently of the strategies; None: all."""
    if strategy == "top":
        return NETWORKS[name][1]
    if strategy == "decoder" and "swin" in name:
        return [*SWIN_TOP, "backbone.decoder5"]
    if strategy == "decoder":
        return [*DENOISER_TOP, "backbone.up_blocks.0", "backbone.up_blocks.1"]
    return None


def is_named(name, strategy, weight):
    if strategy == "lora":
        return ".lora_" in weight or ".modules_to_save." in weight
    modules = named_modules_of(name, strategy)
    return modules is None or weight.startswith(tuple(f"{module}." for module in modules))


def state_of(network):
    return {name: t.detach().clone() for name, t in network.state_dict().items()}


def loss_of(network, batch=2, seed=0):
    """A loss of random images that the segmentation and the class have part in."""
    channels, dims = network.config.in_channels, network.config.spatial_dims
    sides = (64, 32, 32) if "swin" in network.config.architecture else (32,) * dims
    images = torch.cat([random_image(sides, channels, seed=seed + i) for i in range(batch)])
    if not isinstance(network, Segmenter):
        return network(images).square().mean()
    logits, features = network(images)
    classes = network.classify(features, channel_probabilities(logits)[:, 1].sum(dim=(1, 2, 3)))
    return logits.square().mean() + classes.square().mean()


def wake(network):
    """Replace the zeros of a newly drawn denoiser: no gradient passes them in its first step."""
    for name, weight in network.named_parameters():
        if weight.requires_grad and not weight.any() and ".lora_B." not in name:
            weight.data.normal_(std=0.1)


def step(network, everything=False):
    """Adam with weight decay, as tuning has it: over what trains, or even over all weights."""
    weights = [p for p in network.parameters() if everything or p.requires_grad]
    optimiser = build_optimiser(weights, OptimiserConfig(name="adam", learning_rate=1e-3, weight_decay=1e-2))
    optimiser.zero_grad()
    loss_of(network).backward()
    optimiser.step()
    return optimiser


def changed(network, before):
    return {name for name, t in network.state_dict().items() if not torch.equal(t, before[name])}


@pytest.mark.parametrize(("name", "strategy"), PAIRED)
def test_one_step_moves_every_weight_that_the_strategy_names_and_nothing_else_by_a_bit(name, strategy):
    network, _ = prepared(name, strategy)
    wake(network)
    before = state_of(network)
    optimiser = step(network)
    weights = dict(network.named_parameters())
    named = {weight for weight in weights if is_named(name, strategy, weight)}
    moved = changed(network, before)
    assert moved & set(weights) == named
    batch_norm = "resnet" in name and strategy in {"full", "scratch"}
    statistics = {key for key in before if key.endswith(BATCH_STATISTICS)} if batch_norm else set()
    assert moved - set(weights) == statistics
    assert bool(statistics) == batch_norm
    assert {weight for weight, p in weights.items() if p.grad is None} == set(weights) - named
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert held == {id(weights[weight]) for weight in named}
    heads = [weight for weight in weights if weight.startswith(tuple(f"{head}." for head in network.parts["heads"]))]
    assert {weight for weight in heads if ".original_module." not in weight} <= moved


@pytest.mark.parametrize(("name", "strategy"), PAIRED)
def test_the_count_is_the_true_one_and_what_training_may_change_is_what_it_changes(name, strategy):
    plain = sum(t.numel() for t in NETWORKS[name][0]().parameters())
    network, count = prepared(name, strategy)
    assert count.trainable == sum(p.numel() for n, p in network.named_parameters() if is_named(name, strategy, n))
    assert count.total == plain
    wake(network)
    kept, before = trained_state(network), state_of(network)
    step(network)
    assert changed(network, before) <= set(kept)
    assert all(t.device.type == "cpu" and torch.equal(t, before[key]) for key, t in kept.items())
    network.load_state_dict(kept, strict=False)
    assert not changed(network, before)


@pytest.mark.parametrize(("name", "strategy"), PAIRED)
def test_only_what_trains_is_in_training_mode(name, strategy):
    network, _ = prepared(name, strategy)
    for key, module in network.named_modules():
        weights = [p.requires_grad for p in module.parameters()]
        if weights and strategy != "lora":
            assert module.training is all(weights), key
        assert module.training or not any(p.requires_grad for p in module.parameters(recurse=False)), key
    statistics = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {m.training for m in statistics} <= {strategy in {"full", "scratch"}}


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_task_of_tuning_sets_the_same_modes_and_takes_them_back(name, strategy):
    network, _ = prepared(name, strategy)
    expected = {key: m.training for key, m in network.named_modules()}
    task = Segmentation(network, trained_modules(network))
    for _ in range(2):
        task.train()
        assert {key: m.training for key, m in network.named_modules()} == expected
        task.eval()
        assert not any(m.training for m in network.modules())


@pytest.mark.parametrize("feature_size", [12, 24, 36, 48])
def test_top_is_the_longest_run_of_whole_decoder_modules_within_a_tenth(feature_size):
    network = tiny_network(feature_size=feature_size)
    total = sum(p.numel() for p in network.parameters())
    backwards = [f"backbone.decoder{n}" for n in (1, 2, 3, 4, 5)]
    sizes = [sum(p.numel() for p in network.get_submodule(module).parameters()) for module in backwards]
    assert sum(sizes[:4]) <= total / 10 < sum(sizes)
    assert top(network) == SWIN_TOP


def test_top_of_a_network_without_a_decoder_goes_back_through_its_encoder():
    network = resnet(2)
    network.layer4 = nn.Linear(2, 2)
    network.layer3 = nn.Linear(3, 3)
    assert top(network) == ["fc", "layer4", "layer3"]


@pytest.mark.parametrize(("name", "strategy"), PAIRED)
def test_the_modules_that_train_are_the_topmost_in_order_and_their_parts_are_told(name, strategy):
    network, _ = prepared(name, strategy)
    found = trained_modules(network)
    names = {module: key for key, module in network.named_modules()}
    keys = [names[module] for module in found]
    assert keys == [key for key in names.values() if key in keys]
    assert not any(inner.startswith(f"{outer}.") for inner in keys for outer in keys)
    if strategy in {"full", "scratch"}:
        assert found == [network]
    elif strategy != "lora":
        named = {key for key, _ in network.named_parameters() if is_named(name, strategy, key)}
        assert {key for key, _ in network.named_parameters() if key.startswith(tuple(f"{k}." for k in keys))} == named
        assert all(any(module.startswith(key) for key in keys) for module in named_modules_of(name, strategy))
    parts = {"top": ("decoder", "heads"), "decoder": ("decoder", "heads"), "lora": ("encoder", "heads")}
    all_parts = tuple(part for part in network.parts if network.parts[part])
    expected = parts.get(strategy, all_parts)
    assert trained_parts(network) == (("heads",) if strategy == "top" and "resnet" in name else expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_heads_that_came_frozen_train_all_the_same(strategy):
    network = tiny_network().requires_grad_(False)
    prepare(network, strategy, lora=PAIRS)
    before = state_of(network)
    step(network)
    moved = changed(network, before)
    for head in network.parts["heads"]:
        own = {key for key in before if key.startswith(f"{head}.") and ".original_module." not in key}
        assert own
        assert own <= moved


def test_gradients_are_turned_off_in_the_weights_and_not_in_their_modules():
    """`module.requires_grad = False` sets an attribute that nobody reads: the weights go on training."""
    network = tiny_network()
    for module in network.modules():
        module.requires_grad = False
    assert all(p.requires_grad for p in network.parameters())
    network = tiny_network()
    prepare(network, "top")
    assert not any("requires_grad" in vars(module) for module in network.modules())
    assert {p.requires_grad for n, p in network.named_parameters() if not is_named("swin 12", "top", n)} == {False}


@pytest.mark.parametrize("strategy", ["top", "decoder", "lora"])
def test_weight_decay_leaves_the_frozen_alone_even_after_a_step_of_everything_and_in_an_optimiser_of_everything(
    strategy,
):
    network = tiny_network()
    loss_of(network).backward()
    prepare(network, strategy, lora=PAIRS)
    assert all(p.grad is None for p in network.parameters())
    before = state_of(network)
    step(network, everything=True)
    assert changed(network, before) == {n for n, p in network.named_parameters() if is_named("swin 12", strategy, n)}


@pytest.mark.parametrize("strategy", ["top", "lora"])
def test_batches_that_pass_a_frozen_network_leave_its_statistics(strategy):
    network = resnet(3)
    prepare(network, strategy, lora=PAIRS.model_copy(update={"convolutions": True}))
    before = state_of(network)
    loss_of(network)
    assert not changed(network, before)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_preparing_twice_is_preparing_once(strategy):
    network = tiny_network().requires_grad_(False)
    first = prepare(network, strategy, lora=PAIRS, seed=3)
    names = {name for name, p in network.named_parameters() if p.requires_grad}
    before = state_of(network)
    network.requires_grad_(True).train()
    assert prepare(network, strategy, lora=PAIRS, seed=3) == first
    assert {name for name, p in network.named_parameters() if p.requires_grad} == names
    assert not changed(network, before)


@pytest.mark.parametrize("name", NETWORKS)
def test_scratch_draws_all_weights_and_statistics_anew_from_the_seed_alone(name):
    network, same, other = (NETWORKS[name][0]() for _ in range(3))
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith(BATCH_STATISTICS):
                tensor += 7
    before, random = state_of(network), torch.get_rng_state()
    prepare(network, "scratch", seed=5)
    assert torch.equal(torch.get_rng_state(), random)
    torch.manual_seed(99)
    prepare(same, "scratch", seed=5)
    prepare(other, "scratch", seed=6)
    assert not changed(network, state_of(same))
    weights = {key for key, p in network.named_parameters() if p.dim() > 1 and p.any()}
    assert weights
    assert weights <= changed(network, before) & changed(network, state_of(other))
    for key, tensor in network.state_dict().items():
        if key.endswith(BATCH_STATISTICS):
            assert torch.equal(tensor, torch.full_like(tensor, float(key.endswith("running_var"))))
    torch.manual_seed(5)
    fresh = type(network)(network.config)
    assert not changed(network, state_of(fresh))


def test_pairs_are_drawn_from_the_seed_alone_and_change_nothing_at_first():
    network, same, other = (tiny_network() for _ in range(3))
    expected = loss_of(network)
    random = torch.get_rng_state()
    for drawn, seed in ((network, 5), (same, 5), (other, 6)):
        prepare(drawn, "lora", lora=PAIRS, seed=seed)
    assert torch.equal(torch.get_rng_state(), random)
    assert not changed(network, state_of(same))
    assert changed(network, state_of(other)) == {n for n, _ in network.named_parameters() if ".lora_A." in n}
    torch.testing.assert_close(loss_of(network), expected)


def test_the_dropout_of_pairs_is_on_while_they_train_and_that_of_the_frozen_network_is_not():
    network = tiny_network()
    network.backbone.swinViT.pos_drop.p = 0.5
    prepare(network, "lora", lora=PAIRS.model_copy(update={"dropout": 0.5}))
    drops = {key: m.training for key, m in network.named_modules() if isinstance(m, nn.Dropout)}
    assert {key for key, on in drops.items() if on} == {key for key in drops if ".lora_dropout." in key} != set()
    assert network.backbone.swinViT.pos_drop.p == 0.5
    assert not network.backbone.swinViT.pos_drop.training


def test_the_trained_state_is_a_copy_that_later_steps_leave_alone():
    network = resnet(2)
    prepare(network, "full")
    state = trained_state(network)
    assert set(state) == set(network.state_dict())
    before = state_of(network)
    step(network)
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_the_trained_state_holds_the_statistics_of_modules_that_train_and_of_no_other():
    network = resnet(2).requires_grad_(False)
    network.layer4.requires_grad_(True)
    assert set(trained_state(network)) == {key for key in network.state_dict() if key.startswith("layer4.")}


def test_the_names_and_what_they_say_are_those_of_the_settings():
    assert tuple(STRATEGIES) == get_args(TuneConfig.model_fields["strategy"].annotation)
    assert all(text and "\n" not in text for text in STRATEGIES.values())


def untouched(network, before):
    return not changed(network, before) and all(p.requires_grad for p in network.parameters())


def test_an_unknown_strategy_is_refused_with_those_that_there_are_before_anything_is_frozen():
    network = tiny_network()
    before = state_of(network)
    with pytest.raises(ModelError, match="found no such strategy, expected one of: top, decoder, full, lora, scratch"):
        prepare(network, "bottom")
    assert untouched(network, before)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("strategy", "classes", "match"),
    [
        ("decoder", 4, "found no decoder in resnet18, expected a network that has one. Choose top, full or scratch"),
        ("top", 0, "found nothing to train in resnet18, expected a head, or a last module of no more than 10%"),
        ("lora", 4, "found no linear layers in its encoder"),
    ],
)
def test_a_strategy_that_a_network_has_nothing_for_is_refused_before_anything_is_frozen(
    dimensions, strategy, classes, match
):
    network = resnet(dimensions, classes)
    before = state_of(network)
    with pytest.raises(ModelError, match=match):
        prepare(network, strategy)
    assert untouched(network, before)


@pytest.mark.parametrize("strategy", PLAIN)
def test_a_network_with_an_adapter_in_it_is_not_tuned_as_if_it_were_plain(strategy):
    network = tiny_network()
    prepare(network, "lora", lora=PAIRS)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    with pytest.raises(ModelError, match="found an adapter in the network, expected a plain one"):
        prepare(network, strategy)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == trained


def pieces_of(network, images, names):
    """Named values of a segmenter as tuning keeps them, beside what its loss wants to know."""
    with torch.no_grad():
        values = evaluate(network.nodes(), {IMAGE: images}, names)
    generator = torch.Generator().manual_seed(5)
    skeleton = torch.rand((len(images), 1, *images.shape[2:]), generator=generator) < 0.3
    pcs = skeleton & (torch.rand(skeleton.shape, generator=generator) < 0.4)
    return {
        **{f"{VALUE}{name}": value for name, value in values.items()},
        "targets": torch.cat([skeleton, pcs], dim=1).to(torch.uint8),
        "looked": (torch.rand(skeleton.shape, generator=generator) < 0.8).to(torch.uint8),
        "class_index": torch.arange(len(images)) % 3,
        "volumes": torch.full((len(images),), 40.0),
        "offsets": torch.zeros(len(images), network.embedding_channels),
    }


def images_for(network, batch=2):
    sides = (64, 32, 32) if "swin" in network.config.architecture else (16, 16, 16)
    return torch.cat([random_image(sides, network.config.in_channels, seed=seed) for seed in range(batch)])


def gradients_of(network, batch):
    """Of the task of tuning, by weight."""
    network.zero_grad(set_to_none=True)
    outcome = Segmentation(network, trained_modules(network)).train()(batch)
    outcome.loss.backward()
    return outcome.loss.item(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def assert_as_large(found, expected, share=1e-4):
    """Assert that gradients agree within a small share of the largest of each weight's."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        atol = share * gradient.abs().max().item() + 1e-9
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_kept_values_give_what_trains_the_gradients_of_the_whole_network(name, strategy):
    """Of pairs that have come as far as to let gradients through both of their weights."""
    network, _ = prepared(name, strategy)
    wake(network)
    for key, weight in network.named_parameters():
        if ".lora_B." in key:
            weight.data.normal_(std=0.05, generator=torch.Generator().manual_seed(2))
    images = images_for(network)
    names = value_names(network)
    assert (names == (IMAGE,)) == (strategy in {"full", "scratch"})
    loss, found = gradients_of(network, pieces_of(network, images, names))
    whole, expected = gradients_of(network, pieces_of(network, images, (IMAGE,)))
    assert loss == pytest.approx(whole, rel=1e-5)
    assert_as_large(found, expected)
    assert found.keys() == {key for key in dict(network.named_parameters()) if is_named(name, strategy, key)}
    assert all(gradient.isfinite().all() for gradient in found.values())


def loop_of(network, batch, steps=1):
    """The loop that tuning runs, on one batch again and again."""

    class Again:
        steps_per_epoch = steps

        def epoch(self, epoch, first_step=0):
            yield from (Drawn(batch) for _ in range(steps))

        def validation(self):
            return iter(())

    task = Segmentation(network, trained_modules(network))
    optimiser = OptimiserConfig(name="sgd", learning_rate=1e-2, weight_decay=0, momentum=0)
    config = LoopConfig(epochs=1, batch_size=2, micro_batch=2, optimiser=optimiser)
    return Loop(task, Again(), config, Processes("cpu"), Keeper(), StopToken())


@pytest.mark.parametrize("name", ["swin 12", "denoiser"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_loop_moves_what_is_named_by_its_gradients_alone_whatever_was_left_of_earlier_steps(name, strategy):
    """Two steps of gradient descent, by hand and by the loop, in which the worst gradients were left."""
    network, _ = prepared(name, strategy)
    wake(network)
    batch = pieces_of(network, images_for(network), value_names(network))
    by_hand = copy.deepcopy(network)
    for _ in range(2):
        _, gradients = gradients_of(by_hand, batch)
        with torch.no_grad():
            for key, weight in by_hand.named_parameters():
                if key in gradients:
                    weight -= 1e-2 * gradients[key]
    before = state_of(network)
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, 1e3)
    for _ in loop_of(network, batch, steps=2).events():
        pass
    moved = changed(network, before)
    assert moved == changed(by_hand, before)
    named = {key for key in dict(network.named_parameters()) if is_named(name, strategy, key)}
    assert named - moved <= {key for key in named if ".lora_A." in key}  # too little to change a float, yet
    assert moved <= named
    for key, tensor in network.state_dict().items():
        # What was left would move weights by 10; roundings grow where two voxels were normalised.
        torch.testing.assert_close(tensor, by_hand.state_dict()[key], rtol=1e-2, atol=1e-4)


def rows_and_columns(network, name):
    """Outputs and inputs of the layers that get pairs, read off a plain network's weights."""
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    if "swin" in name:
        ends = ("attn.qkv", "attn.proj", "mlp.linear1", "mlp.linear2")
        return [shapes[f"{key}.weight"] for key in dict(network.named_modules()) if key.endswith(ends)]
    if "denoiser" in name:
        inside = ("backbone.down_blocks.", "backbone.middle_block.")
        ends = ("to_q", "to_k", "to_v", "out_proj", "ff.linear1", "ff.linear2")
        return [
            shapes[f"{key}.weight"]
            for key in dict(network.named_modules())
            if key.startswith(inside) and key.endswith(ends)
        ]
    return [s for key, s in shapes.items() if key.startswith("layer") and len(s) > 2]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pairs_that_are_counted_are_rank_times_inputs_and_outputs(name):
    """Rank x (inputs x kernel + outputs) of each layer, and all of the heads."""
    plain = NETWORKS[name][0]()
    pairs = sum(PAIRS.rank * (math.prod(shape[1:]) + shape[0]) for shape in rows_and_columns(plain, name))
    heads = sum(p.numel() for _, head in plain.modules_of("heads") for p in head.parameters())
    _, count = prepared(name, "lora")
    assert pairs > 0
    assert count.trainable == pairs + heads


@pytest.mark.parametrize(("strategy", "share"), [("decoder", 0.312), ("top", 0.0796), ("full", 1.0)])
def test_the_shares_of_the_published_size_are_those_of_its_layers(strategy, share):
    """Counted by hand in MONAI's network of feature size 24: decoder5 23.24 %, 4 5.81, 3 1.45, 2 0.36, 1 0.33."""
    network = tiny_network(feature_size=24, window_size=7, position=False)
    head = sum(p.numel() for p in network.class_head.parameters())
    count = prepare(network, strategy)
    assert count.total - head == 15_703_004
    assert (count.trainable - head) / (count.total - head) == pytest.approx(share, abs=5e-4)
