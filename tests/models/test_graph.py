import gc
import weakref

import pytest
import torch
from denoisers import tiny_denoiser
from networks import random_image, tiny_network
from torch import nn

from napari_pcs.models.graph import DECODED, FEATURES, IMAGE, Node, evaluate, kept_nodes, trains
from napari_pcs.strategies import prepare

SIDES = (64, 32, 32)
NETWORKS = {
    "swin": lambda: tiny_network(),
    "swin of 24 without position": lambda: tiny_network(feature_size=24, position=False),
    "denoiser": lambda: tiny_denoiser(),
    "denoiser of two blocks": lambda: tiny_denoiser(residual_blocks=2, attention=(False, True, True)),
    "denoiser without conditions": lambda: tiny_denoiser(cross_attention_dim=None, position=True),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def image_for(network):
    return random_image(SIDES, channels=network.config.in_channels)


class Diamond(nn.Module):
    """image -> a -> b, a -> c, (b, c) -> d, and e of b, with a weight in each."""

    def __init__(self):
        super().__init__()
        for name in "abcde":
            setattr(self, name, nn.Linear(1, 1, bias=False))
        self.seen, self.alive = {}, {}

    def nodes(self):
        def run(name):
            def compute(*inputs):
                gc.collect()
                self.alive[name] = {n for n, reference in self.seen.items() if reference() is not None}
                found = sum(inputs) * self.get_submodule(name).weight
                self.seen[name] = weakref.ref(found)
                return found

            return compute

        inputs = {"a": (IMAGE,), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("b",)}
        return tuple(Node(name, read, (name,), 1, run(name)) for name, read in inputs.items())


@pytest.fixture
def diamond():
    network = Diamond().requires_grad_(False)
    for weight, name in zip((2.0, 3.0, 5.0, 7.0, 11.0), "abcde", strict=True):
        network.get_submodule(name).weight.fill_(weight)
    return network


def test_values_are_those_worked_out_by_hand(diamond):
    found = evaluate(diamond.nodes(), {IMAGE: torch.ones(1)}, ("d", "a", "e"))
    assert {name: float(value) for name, value in found.items()} == {"d": (2 * 3 + 2 * 5) * 7, "a": 2, "e": 2 * 3 * 11}
    assert list(found) == ["d", "a", "e"]


def test_nothing_is_computed_that_is_known_or_not_needed(diamond):
    found = evaluate(diamond.nodes(), {"b": torch.tensor([10.0])}, ("e",))
    assert float(found["e"]) == 110
    assert set(diamond.seen) == {"e"}
    evaluate(diamond.nodes(), {IMAGE: torch.ones(1), "b": torch.tensor([10.0])}, ("d",))
    assert set(diamond.seen) == {"a", "c", "d", "e"}


def test_a_value_that_is_known_and_wanted_is_given_back_as_it_is(diamond):
    known = torch.tensor([10.0])
    assert evaluate(diamond.nodes(), {"b": known}, ("b",))["b"] is known
    assert not diamond.seen


def test_a_value_is_let_go_once_nothing_that_is_left_reads_it(diamond):
    evaluate(diamond.nodes(), {IMAGE: torch.ones(1)}, ("e", "d"))
    assert diamond.alive == {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"b", "c"}, "e": {"b", "d"}}
    evaluate(diamond.nodes(), {IMAGE: torch.ones(1)}, ("d",))
    assert diamond.alive["d"] == {"b", "c"}
    gc.collect()
    assert all(reference() is None for reference in diamond.seen.values())


def test_a_value_that_is_read_twice_by_one_node_is_kept_until_then():
    nodes = (
        Node("a", (IMAGE,), (), 1, lambda x: 2 * x),
        Node("b", ("a", "a"), (), 1, lambda x, y: x * y),
    )
    assert float(evaluate(nodes, {IMAGE: torch.tensor([3.0])}, ("b",))["b"]) == 36


@pytest.mark.parametrize(
    ("known", "wanted", "missing"), [((), ("e",), "image"), (("b",), ("d",), "image"), (("image",), ("z", "y"), "y, z")]
)
def test_a_value_that_nothing_gives_is_named(diamond, known, wanted, missing):
    with pytest.raises(KeyError, match=f"values {missing} are neither known nor computed"):
        evaluate(diamond.nodes(), {name: torch.ones(1) for name in known}, wanted)
    assert not diamond.seen


@pytest.mark.parametrize(
    ("training", "kept"),
    [
        ("e", ["b", "d"]),
        ("d", ["b", "c", "e"]),
        ("c", ["a", "b", "e"]),
        ("a", []),
        ("", ["d", "e"]),
        ("de", ["b", "c"]),
    ],
)
def test_what_is_kept_is_frozen_and_read_by_what_trains(diamond, training, kept):
    for name in training:
        diamond.get_submodule(name).requires_grad_(True)
    assert [node.name for node in kept_nodes(diamond, diamond.nodes(), ("d", "e"))] == list(kept)
    assert [name for name in "abcde" if trains(diamond.get_submodule(name))] == list(training)


def test_each_node_comes_after_its_inputs_and_the_last_two_are_what_the_heads_read(network):
    known = {IMAGE}
    for node in network.nodes():
        assert known.issuperset(node.inputs)
        assert node.name not in known
        known.add(node.name)
    assert [node.name for node in network.nodes()][-2:] == [DECODED, FEATURES]
    assert known.issuperset(network.encoded)


def test_the_nodes_together_use_every_weight_but_those_of_the_heads(network):
    def weights(modules):
        return {id(p) for name in modules for p in network.get_submodule(name).parameters()}

    used = weights(name for node in network.nodes() for name in node.modules)
    assert used == weights(name for part in ("stem", "encoder", "decoder") for name in network.parts[part])


def test_a_node_uses_the_weights_that_it_names_and_no_other(network):
    network.requires_grad_(True)
    values = {IMAGE: image_for(network)}
    named = dict(network.named_parameters())
    for node in network.nodes():
        values[node.name] = node.run(*(values[name] for name in node.inputs))
        inside = tuple(f"{name}." for name in node.modules)
        expected = {name for name in named if name.startswith(inside)}
        if expected:
            gradients = torch.autograd.grad(values[node.name].square().sum(), list(named.values()), allow_unused=True)
            assert {n for n, g in zip(named, gradients, strict=True) if g is not None} == expected
        else:
            assert not values[node.name].requires_grad
        values[node.name] = values[node.name].detach()


def test_the_stride_of_a_node_is_that_of_its_value(network):
    image, nodes = image_for(network), network.nodes()
    with torch.inference_mode():
        values = evaluate(nodes, {IMAGE: image}, [node.name for node in nodes])
    for node in nodes:
        sides = tuple(side // node.stride for side in SIDES) if node.stride else ()
        assert values[node.name].shape[2:] == sides
        assert values[node.name].shape[0] == 1


def test_the_decoder_reads_the_values_that_are_named_encoded_and_the_image_not_at_all(network):
    image = image_for(network)
    with torch.inference_mode():
        encoded = network.encode(image)
        whole = network(image)
        parts = network.segment(network.decode(encoded), network.pool(encoded[-1]))
    assert len(encoded) == len(network.encoded)
    assert torch.equal(parts.logits, whole.logits)
    assert torch.equal(parts.features, whole.features)


def test_the_embedding_is_the_pooled_bottleneck_and_computes_no_skip_and_no_decoder(network, monkeypatch):
    run, nodes = [], network.nodes()

    def told(node):
        def compute(*inputs):
            run.append(node.name)
            return node.run(*inputs)

        return node._replace(run=compute)

    with torch.inference_mode():
        expected = network(image_for(network)).features
        monkeypatch.setattr(network, "nodes", lambda: tuple(map(told, nodes)), raising=False)
        assert torch.equal(network.embed(image_for(network)), expected)
    by_name = {node.name: node for node in nodes}
    above, left = set(), [FEATURES]
    while left:
        above.add(name := left.pop())
        left += [read for read in by_name[name].inputs if read != IMAGE]
    assert set(run) == above
    skips = {"half", "quarter", "eighth", "sixteenth", "full"} if "half" in by_name else set()
    assert not above & {*skips, DECODED, "up1_0"}


SWIN = {
    "top": ["half", "quarter", "eighth", "up16", "full", "features"],
    "decoder": ["half", "quarter", "eighth", "sixteenth", "bottleneck", "full", "features"],
    "full": [],
    "scratch": [],
    "lora": ["tokens0", "half", "full"],
}
DENOISER = {
    "top": ["entry", "down1_0", "doubled1", "features"],
    "decoder": ["entry", "down1_0", "halved2", "down2_0", "halved4", "down4_0", "bottleneck", "features"],
    "full": [],
    "scratch": [],
    "lora": ["entry", "down1_0", "halved2", "down2_0", "halved4"],
}


@pytest.mark.parametrize(
    ("name", "strategy", "kept"),
    [(name, s, k) for name, table in (("swin", SWIN), ("denoiser", DENOISER)) for s, k in table.items()],
)
def test_what_is_kept_for_each_strategy_gives_the_output_without_the_image(name, strategy, kept):
    network = NETWORKS[name]()
    prepare(network, strategy)
    network.eval()
    nodes, image = network.nodes(), image_for(network)
    found = kept_nodes(network, nodes)
    assert [node.name for node in found] == kept
    with torch.inference_mode():
        known = evaluate(nodes, {IMAGE: image}, kept)
        if not kept:
            known[IMAGE] = image
        again = evaluate(nodes, known, (DECODED, FEATURES))
        whole = network(image)
        assert torch.equal(network.segment(again[DECODED], again[FEATURES]).logits, whole.logits)
    assert torch.equal(again[FEATURES], whole.features)
