import pytest
import torch
from networks import random_image, tensors_of, tiny_network

from napari_pcs.errors import ModelError
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.strategies import STRATEGIES, prepare, top, trained_state

HEADS = ["backbone.out", "class_head"]
DECODER = [f"backbone.decoder{n}" for n in (1, 2, 3, 4, 5)]
"""From the output backwards."""


def sizes(network, names):
    prefixes = tuple(f"{name}." for name in names)
    return sum(p.numel() for name, p in network.named_parameters() if name.startswith(prefixes))


def loss_of(network, image):
    logits, features = network(image)
    classes = network.classify(features, channel_probabilities(logits)[:, 1].sum(dim=(1, 2, 3)))
    return logits.square().mean() + classes.square().mean()


@pytest.mark.parametrize("feature_size", [12, 24])
def test_top_takes_the_heads_and_as_many_whole_decoder_modules_as_fit_a_tenth(feature_size):
    network = tiny_network(feature_size=feature_size)
    tenth = sum(p.numel() for p in network.parameters()) / 10
    fitting = max(n for n in range(6) if sizes(network, DECODER[:n]) <= tenth)
    assert sorted(top(network)) == sorted([*HEADS, *DECODER[:fitting]])
    assert fitting == 4


def test_the_counts_are_those_of_the_weights_that_train():
    network = tiny_network()
    count = prepare(network, "top")
    assert count.trainable == sizes(network, [*HEADS, *DECODER[:4]])
    assert count.trainable == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert count.total == sum(p.numel() for p in network.parameters())
    assert count.trainable < 0.11 * count.total


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_step_moves_exactly_what_the_strategy_names_and_nothing_else_by_a_bit(strategy):
    network = tiny_network()
    prepare(network, strategy)
    named = {f"{m}.{p}" for m in STRATEGIES[strategy](network) for p, _ in network.get_submodule(m).named_parameters()}
    before = tensors_of(network)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3, weight_decay=1e-4)
    loss_of(network, random_image()).backward()
    optimizer.step()
    moved = {name for name, tensor in tensors_of(network).items() if not torch.equal(tensor, before[name])}
    assert moved == named
    assert {name for name, p in network.named_parameters() if p.grad is None} == {
        name for name, _ in network.named_parameters()
    } - named


def test_only_what_trains_is_in_training_mode():
    network = tiny_network().train()
    prepare(network, "top")
    for name, module in network.named_modules():
        inside = any(name == t or name.startswith(f"{t}.") for t in top(network))
        assert module.training is inside


def test_preparing_twice_is_preparing_once():
    network = tiny_network().requires_grad_(False)
    first = prepare(network, "top")
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    network.requires_grad_(True)
    assert prepare(network, "top") == first
    assert [name for name, p in network.named_parameters() if p.requires_grad] == names


def test_the_trained_state_is_a_copy_that_later_steps_leave_alone():
    network = tiny_network()
    prepare(network, "top")
    state = trained_state(network)
    assert state.keys() == {name for name, p in network.named_parameters() if p.requires_grad}
    expected = {name: t.clone() for name, t in state.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_an_unknown_strategy_is_refused_before_anything_is_frozen():
    network = tiny_network()
    with pytest.raises(ModelError, match="Strategy bottom: found no such strategy, expected one of: top"):
        prepare(network, "bottom")
    assert all(p.requires_grad for p in network.parameters())
