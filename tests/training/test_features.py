from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import LONG, look_through_a_small_box, tensors_of, tiny_network

from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import CancelledError, InputError, ModelError
from napari_pcs.models.field_of_view import as_part
from napari_pcs.models.graph import DECODED, FEATURES, IMAGE, evaluate
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.stop import StopToken
from napari_pcs.strategies import prepare, trained_modules
from napari_pcs.training import features as module
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.features import NORM, VALUE, FrozenValues, Item
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.segmentation import Segmentation

SETTINGS = {"patch": 32, "patches": 2, "views": 2}
TOP = ("up16", "eighth", "quarter", "half", "full", "features")


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


@pytest.fixture(scope="module")
def case():
    return Labelled.of(phantom(pcs_length_mm=60, seed=1))


@pytest.fixture
def bundles(tmp_path):
    return Bundles(tmp_path / "kept", 2**30)


def prepared(strategy, seed=0):
    network = tiny_network(seed)
    prepare(network, strategy, lora=LoraConfig(), seed=0)
    return network


def values_of(network, strategy, bundles, stop=None, **settings):
    config = TuneConfig(strategy=strategy, **{**SETTINGS, **settings})
    return FrozenValues(network, config, bundles, stop or StopToken())


@pytest.fixture
def long_box(monkeypatch):
    look_through_a_small_box(monkeypatch, LONG)


def losses(strategy, case, bundles, steps=4):
    """Losses of some steps of training on the patches of both views."""
    network = prepared(strategy)
    values = values_of(network, strategy, bundles, patch=64)
    task = Segmentation(network, trained_modules(network)).train()
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-3)
    found = []
    for n in range(steps):
        optimiser.zero_grad()
        loss = task(values.patch(Item(case, n % 2, n // 2))).loss
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("strategy", ["top", "decoder", "full", "lora"])
@pytest.mark.usefixtures("long_box")
def test_training_on_kept_values_has_the_losses_of_training_on_computed_ones(strategy, case, bundles):
    without, first, again = (losses(strategy, case, b) for b in (None, bundles, bundles))
    assert first == again
    np.testing.assert_allclose(first, without, rtol=2e-3)
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("strategy", ["top", "decoder", "full"])
def test_values_of_all_of_a_hemisphere_give_what_the_network_gives(strategy, case):
    network = prepared(strategy)
    patch = values_of(network, strategy, None, patch=0).patch(Item(case, 0, 0))
    known = {name.removeprefix(VALUE): t for name, t in patch.items() if name.startswith(VALUE)}
    found = evaluate(network.nodes(), known, (DECODED, FEATURES))
    example = module.build_example(case.load(), position=True, multiple=32)
    with torch.no_grad():
        whole = network(example.image)
        logits, _ = network.segment(found[DECODED], found[FEATURES])
    torch.testing.assert_close(logits, whole.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[FEATURES] + patch["offsets"], whole.features, rtol=0, atol=1e-6)
    assert patch["volumes"].item() == 0


def test_a_patch_is_a_part_of_the_values_of_the_hemisphere(case):
    network = prepared("top")
    values = values_of(network, "top", None)
    example = module.build_example(case.load(), position=True, multiple=32)
    whole = evaluate(network.nodes(), {IMAGE: example.image}, TOP)
    total = example.targets[:, 1].sum()
    for place in range(values.count(case, 0)):
        patch = values.patch(Item(case, 0, place))
        full = patch[f"{VALUE}full"]
        start = find(whole["full"], full)
        for name, stride in (("half", 2), ("quarter", 4), ("eighth", 8), ("up16", 16)):
            cells = tuple(slice(a // stride, (a + 32) // stride) for a in start)
            torch.testing.assert_close(patch[VALUE + name], whole[name][(..., *cells)], rtol=0, atol=1e-6)
        torch.testing.assert_close(patch[VALUE + "features"], whole["features"], rtol=0, atol=1e-6)
        assert patch["volumes"] + patch["targets"][:, 1].sum() == total


def find(whole, part):
    """First voxel of a part in the whole, on a grid of 16."""
    for x in range(0, whole.shape[2] - 31, 16):
        for y in range(0, whole.shape[3] - 31, 16):
            for z in range(0, whole.shape[4] - 31, 16):
                if torch.allclose(whole[..., x : x + 32, y : y + 32, z : z + 32], part, rtol=0, atol=1e-6):
                    return x, y, z
    raise AssertionError


@pytest.mark.usefixtures("long_box")
def test_where_the_encoder_trains_the_offset_completes_the_features_of_the_hemisphere(case):
    network = prepared("lora")
    values = values_of(network, "lora", None, patch=64)
    patch = values.patch(Item(case, 0, 1))
    known = {name.removeprefix(VALUE): t for name, t in patch.items() if name.startswith(VALUE)}
    example = module.build_example(case.load(), position=True, multiple=32)
    with torch.no_grad():
        with as_part(network, {name.removeprefix(NORM): t for name, t in patch.items() if name.startswith(NORM)}):
            own = evaluate(network.nodes(), known, (FEATURES,))[FEATURES]
        torch.testing.assert_close(own + patch["offsets"], network.embed(example.image), rtol=0, atol=1e-5)
    assert patch["offsets"].abs().max() > 1e-4


def test_nothing_is_computed_twice(case, bundles, monkeypatch):
    computed = []
    compute = FrozenValues._compute
    monkeypatch.setattr(FrozenValues, "_compute", lambda self, *a: computed.append(a[1]) or compute(self, *a))
    first = values_of(prepared("top"), "top", bundles)
    for view in (0, 1, 0):
        for place in (0, 1):
            first.patch(Item(case, view, place))
    again = values_of(prepared("top"), "top", bundles)
    again.prepare(case, 0)
    again.patch(Item(case, 1, 1))
    assert computed == [0, 1]


class SlowComputing:
    """Stands in for computing, which takes 2 s by a clock of its own."""

    def __init__(self, monkeypatch, seconds=2.0):
        self.now, self.seconds = 100.0, seconds
        monkeypatch.setattr(module, "time", self)
        compute = FrozenValues._compute
        monkeypatch.setattr(FrozenValues, "_compute", lambda *a: self.tick() or compute(*a))

    def perf_counter(self):
        return self.now

    def tick(self):
        self.now += self.seconds


def test_what_lies_ahead_is_known_from_what_was_computed_now_or_earlier(case, bundles, monkeypatch):
    SlowComputing(monkeypatch)
    network = prepared("top")
    first = values_of(network, "top", bundles)
    items = [Item(case, view, place) for view in (0, 1) for place in (0, 1)]
    assert first.seconds_ahead(items) == 0
    first.patch(items[0])
    assert first.spent_s == first.seconds_ahead(items) == 2.0
    later = values_of(network, "top", bundles)
    later.patch(items[0])
    assert (later.spent_s, later.seconds_ahead(items)) == (0, 2.0)
    later.patch(items[-1])
    assert (later.spent_s, later.seconds_ahead(items)) == (2.0, 0)


def test_what_is_kept_nowhere_lies_ahead_again_for_every_patch(case, monkeypatch):
    SlowComputing(monkeypatch)
    values = values_of(prepared("top"), "top", None)
    values.patch(Item(case, 0, 0))
    assert values.seconds_ahead([Item(case, 0, place) for place in (0, 1, 0)]) == 6.0


def test_what_the_disk_refuses_does_not_lie_ahead_while_memory_has_it(case, bundles, monkeypatch):
    SlowComputing(monkeypatch)
    monkeypatch.setattr(Bundles, "write", lambda *_a, **_k: False)
    values = values_of(prepared("top"), "top", bundles)
    values.patch(Item(case, 0, 0))
    assert values.seconds_ahead([Item(case, 0, 1)]) == 0
    assert values.seconds_ahead([Item(case, 1, 1)]) == 2.0


@pytest.mark.parametrize("changed", ["frozen weights", "case", "seed", "patches"])
def test_values_of_something_else_are_not_taken(case, bundles, changed):
    network, settings, other = prepared("top"), {}, case
    values_of(network, "top", bundles).prepare(case, 0)
    if changed == "frozen weights":
        with torch.no_grad():
            network.backbone.encoder1.layer.conv1.conv.weight[0, 0, 0, 0, 0] += 1e-3
    elif changed == "case":
        other = replace(case, digest="another")
    elif changed == "seed":
        settings = {"seed": 5}
    else:
        settings = {"patches": 1}
    found = values_of(network, "top", bundles, **settings)
    assert not bundles.has(found._key(other, 0))


@pytest.mark.parametrize(("patch", "kept"), [(0, True), (32, False)])
def test_after_tuning_the_top_only_whole_hemispheres_are_still_there(case, bundles, patch, kept):
    """A patch is stored with what it differs by in the layers that train, and these have changed."""
    network = prepared("top")
    values_of(network, "top", bundles, patch=patch).prepare(case, 0)
    with torch.no_grad():
        network.backbone.decoder1.conv_block.conv1.conv.weight += 1
    assert bundles.has(values_of(network, "top", bundles, patch=patch)._key(case, 0)) == kept


@pytest.mark.parametrize("strategy", ["top", "decoder", "full", "lora"])
@pytest.mark.usefixtures("long_box")
def test_in_the_middle_a_patch_is_labelled_as_the_hemisphere_is(strategy, case):
    """Nearer to its faces convolutions and windows of attention see less than those of the whole."""
    network = prepared(strategy)
    patch = values_of(network, strategy, None, patch=64, patches=1).patch(Item(case, 0, 0))
    example = module.build_example(case.load(), position=True, multiple=32)
    with torch.no_grad():
        whole = network(example.image).logits
        known = {name.removeprefix(VALUE): t for name, t in patch.items() if name.startswith(VALUE)}
        alone = logits(network, known)
        with as_part(network, {name.removeprefix(NORM): t for name, t in patch.items() if name.startswith(NORM)}):
            part = logits(network, known)
    start = min(range(0, 33, 8), key=lambda y: (example.targets[..., y : y + 64, :] != patch["targets"]).sum())
    there = (..., slice(start + 28, start + 36), slice(None))
    off, off_alone = ((found[..., 28:36, :] - whole[there]).abs().mean() for found in (part, alone))
    assert off < 0.1 * off_alone


@pytest.mark.parametrize(
    ("strategy", "patch", "corrected"), [("full", 64, True), ("full", 0, False), ("scratch", 64, False)]
)
@pytest.mark.usefixtures("long_box")
def test_neither_whole_hemispheres_nor_random_weights_are_corrected(strategy, patch, corrected, case):
    found = values_of(prepared(strategy), strategy, None, patch=patch, patches=1).patch(Item(case, 0, 0))
    assert any(name.startswith(NORM) for name in found) == corrected


def logits(network, known):
    found = evaluate(network.nodes(), known, (DECODED, FEATURES))
    return network.segment(found[DECODED], found[FEATURES]).logits


@pytest.mark.usefixtures("long_box")
def test_what_computes_is_a_copy(case, bundles):
    network = prepared("full")
    values = values_of(network, "full", bundles, patch=64)
    before = tensors_of(network)
    modes = {name: m.training for name, m in network.named_modules()}
    values.patch(Item(case, 1, 0))
    assert all(torch.equal(before[name], t) for name, t in tensors_of(network).items())
    assert {name: m.training for name, m in network.named_modules()} == modes


def test_what_the_disk_refuses_is_kept_in_memory(case, tmp_path, monkeypatch):
    bundles = Bundles(tmp_path / "none", 10)
    values = values_of(prepared("top"), "top", bundles)
    computed = []
    compute = FrozenValues._compute
    monkeypatch.setattr(FrozenValues, "_compute", lambda self, *a: computed.append(a[1]) or compute(self, *a))
    one, two = (values.patch(Item(case, 0, 0)) for _ in range(2))
    assert computed == [0]
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_values_beyond_half_precision_are_kept_in_single(case, bundles):
    array = np.array([1e5, 1.0], np.float32)
    np.testing.assert_array_equal(module._half(array), array)
    assert module._half(array[1:]).dtype == np.float16


@pytest.mark.usefixtures("long_box")
def test_too_little_memory_for_the_hemisphere_makes_it_patches(case, monkeypatch):
    plenty = values_of(prepared("top"), "top", None, patch=64).patch(Item(case, 0, 0))
    monkeypatch.setattr(module, "free_memory", lambda _device: 1000)
    little = values_of(prepared("top"), "top", None, patch=64).patch(Item(case, 0, 0))
    assert {name: t.shape for name, t in little.items()} == {name: t.shape for name, t in plenty.items()}
    assert torch.equal(little["targets"], plenty["targets"])
    assert not torch.equal(little[f"{VALUE}up16"], plenty[f"{VALUE}up16"])


def test_too_little_memory_for_the_hemisphere_and_patches_of_one_cell_are_a_sentence(case, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda _device: 1000)
    with pytest.raises(ModelError, match="too little memory for a whole hemisphere, and patches of 32"):
        values_of(prepared("top"), "top", None).patch(Item(case, 0, 0))


def test_stopping_ends_a_pass(case):
    stop = StopToken()
    values = values_of(prepared("top"), "top", None, stop)
    stop.set()
    with pytest.raises(CancelledError):
        values.patch(Item(case, 0, 0))


@pytest.mark.parametrize("strategy", ["full", "lora", "scratch"])
def test_patches_of_one_cell_are_refused_where_the_encoder_trains(strategy):
    said = (
        rf"found patches of 32 voxels for {strategy}, which trains the encoder, expected more than 32, or 0 for whole"
    )
    with pytest.raises(InputError, match=said):
        values_of(prepared(strategy), strategy, None, patch=32)
