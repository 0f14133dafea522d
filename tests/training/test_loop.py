import math

import numpy as np
import pytest
import torch
from networks import CPU, SMALL, random_image, tensors_of, tiny_network

from napari_pcs.errors import ModelError
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.stop import StopToken
from napari_pcs.strategies import prepare, trained_state
from napari_pcs.training import loop
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.losses import total_loss

# Some tests put a step of their own in the place of the real one, which then moves no weight.
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


def example(seed=0):
    """Two bright balls on a noisy ground: the left one is skeleton, the right one PCS."""
    image = random_image(seed=seed)
    x, y, z = np.indices(SMALL)
    balls = [(x - c) ** 2 + (y - 32) ** 2 + (z - 16) ** 2 < 100 for c in (18 + seed, 44 + seed)]
    targets = torch.from_numpy(np.stack([balls[0] | balls[1], balls[1]]))[None].float()
    return loop.Example(f"case {seed}", image + targets[:, :1], targets, torch.tensor([seed % 3]))


def ready(seed=0):
    network = tiny_network(seed)
    prepare(network, "top")
    return network


class Keeper:
    """Remembers what the loop hands over."""

    def __init__(self):
        self.kept = []

    def __call__(self, step, state):
        self.kept.append((step, state))


def optimise(network, examples, stop=None, keep=None, **config):
    yield from loop.optimise(network, examples, TuneConfig(**config), CPU, stop or StopToken(), keep or Keeper())


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def scripted(monkeypatch):
    """Replace the optimiser's step: given losses, and weights that grow by 1 each time."""

    def script(*losses):
        values = iter(losses)

        def step(network, *_):
            with torch.no_grad():
                network.weight += 1
            value = next(values)
            if isinstance(value, Exception):
                raise value
            return value, [0.5, None]

        monkeypatch.setattr(loop, "_step", step)
        network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(network.weight)
        return network

    return script


@pytest.fixture(scope="module")
def trained():
    """Events, kept states and network of six epochs on one example."""
    network, keep = ready(), Keeper()
    steps = list(optimise(network, [example()], keep=keep, epochs=6, learning_rate=1e-2))
    return steps, keep.kept, network


def test_the_loss_falls_and_the_dice_rises(trained):
    steps, _, _ = trained
    assert [(s.step, s.epoch) for s in steps] == [(n, n) for n in range(1, 7)]
    assert steps[-1].loss < 0.8 * steps[0].loss
    assert steps[-1].dice_skeleton > steps[0].dice_skeleton
    assert all(s.seconds > 0 for s in steps)


def test_the_first_loss_and_dice_are_those_of_the_untrained_network(trained):
    network, case = ready(), example()
    with torch.no_grad():
        logits, features = network(case.image)
        probabilities = channel_probabilities(logits)
        classes = network.classify(features, probabilities[:, 1].sum(dim=(1, 2, 3)))
        expected = total_loss(logits, case.targets, classes, case.class_index)
    first = trained[0][0]
    assert first.loss == pytest.approx(float(expected), rel=1e-4)
    found, true = (probabilities[0, 0] >= 0.5).numpy(), case.targets[0, 0].numpy() > 0
    assert first.dice_skeleton == pytest.approx(2 * (found & true).sum() / (found.sum() + true.sum()), abs=1e-3)


def test_the_same_seed_gives_the_same_weights_to_the_bit():
    runs = []
    for _ in range(2):
        network = ready()
        losses = [s.loss for s in optimise(network, [example(0), example(1)], epochs=1, seed=3)]
        runs.append((losses, tensors_of(network)))
    assert runs[0][0] == runs[1][0]
    assert equal(runs[0][1], runs[1][1])


def test_each_epoch_sees_every_example_once_in_an_order_that_the_seed_decides(monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "_step", lambda _n, example, *_: seen.append(example) or (1.0, [None, None]))
    orders = []
    for seed in (0, 0, 1):
        seen.clear()
        list(optimise(torch.nn.Linear(1, 1), list(range(6)), epochs=3, seed=seed))
        epochs = [tuple(seen[i : i + 6]) for i in (0, 6, 12)]
        assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
        assert len(set(epochs)) > 1
        orders.append(epochs)
    assert orders[0] == orders[1] != orders[2]


def test_the_step_size_falls_to_a_tenth_along_a_cosine(monkeypatch):
    rates = []

    def step(_network, _example, optimizer, *_):
        rates.append(optimizer.param_groups[0]["lr"])
        return 1.0, [None, None]

    monkeypatch.setattr(loop, "_step", step)
    list(optimise(torch.nn.Linear(1, 1), [0, 1], epochs=5, learning_rate=0.02))
    expected = [0.02 * (0.1 + 0.9 * (1 + math.cos(math.pi * n / 10)) / 2) for n in range(10)]
    assert rates == pytest.approx(expected)


def test_the_epoch_with_the_lowest_mean_loss_is_kept(scripted):
    # Means of the epochs: 3, 1.5, 2, 1.5.
    network, keep = scripted(2, 4, 2, 1, 0.5, 3.5, 1.5, 1.5), Keeper()
    list(optimise(network, [0, 1], keep=keep, epochs=4))
    assert [step for step, _ in keep.kept] == [2, 4]
    assert [float(state["weight"]) for _, state in keep.kept] == [2, 4]


def test_what_was_kept_of_a_real_run_is_what_the_network_was_then(trained):
    steps, kept, network = trained
    lowest = 1 + int(np.argmin([s.loss for s in steps]))
    assert kept[-1][0] == lowest
    assert equal(kept[-1][1], trained_state(network)) is (lowest == 6)


def test_stopping_keeps_the_last_complete_step_if_no_epoch_was_complete():
    network, keep, stop = ready(), Keeper(), StopToken()
    steps = []
    for step in optimise(network, [example(0), example(1)], stop, keep, epochs=2):
        steps.append(step)
        after_first = trained_state(network)
        stop.set()
    assert len(steps) == 1
    assert [n for n, _ in keep.kept] == [1]
    assert equal(keep.kept[0][1], after_first)
    assert equal(trained_state(network), after_first)


def test_stopping_in_a_later_epoch_leaves_the_best_epoch_as_it_was():
    network, keep, stop = ready(), Keeper(), StopToken()
    for step in optimise(network, [example(0), example(1)], stop, keep, epochs=3):
        if step.step == 2:
            after_first_epoch = trained_state(network)
        if step.step == 3:
            stop.set()
    assert [n for n, _ in keep.kept] == [2]
    assert equal(keep.kept[0][1], after_first_epoch)


def test_stopping_before_the_first_step_keeps_nothing_and_changes_nothing():
    network, keep, stop = ready(), Keeper(), StopToken()
    before = tensors_of(network)
    stop.set()
    assert list(optimise(network, [example()], stop, keep)) == []
    assert keep.kept == []
    assert equal(tensors_of(network), before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_is_named_and_changes_no_weight(value):
    network, keep = ready(), Keeper()
    before = tensors_of(network)
    bad = example()
    bad.image[0, 0, 5, 5, 5] = value
    with pytest.raises(ModelError, match="not finite on case 0; lower the learning rate"):
        list(optimise(network, [bad], keep=keep))
    assert keep.kept == []
    assert equal(tensors_of(network), before)


def test_running_out_of_memory_is_an_error_that_says_what_to_do(scripted):
    with pytest.raises(ModelError, match="cpu device ran out of memory while tuning; close other programs"):
        list(optimise(scripted(1.0, torch.OutOfMemoryError("boom")), [0, 1]))


def test_a_case_without_pcs_has_no_dice_of_it_unless_some_was_found(monkeypatch):
    targets = np.zeros((2, 4, 4, 4), bool)
    targets[0, 0] = True
    probabilities = np.zeros((2, 4, 4, 4), np.float32)
    probabilities[0, :2] = 0.5  # 16 of the 32 voxels found are right
    assert loop._dice(probabilities, targets) == [pytest.approx(2 * 16 / 48), None]
    probabilities[1, 0] = 0.25  # half of 0.5: as likely PCS as other skeleton
    assert loop._dice(probabilities, targets)[1] == 0
