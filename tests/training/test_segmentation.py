import math

import numpy as np
import pytest
import torch
from builders import corrected_by
from networks import look_through_a_small_box, tensors_of, tiny_network
from torch import nn

from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.looked import Looked
from napari_pcs.models.contract import SegmentationOutput
from napari_pcs.models.graph import DECODED, FEATURES, IMAGE, Node
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.stop import StopToken
from napari_pcs.strategies import prepare, trained_modules
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.examples import build_example
from napari_pcs.training.features import VALUE, FrozenValues, Item
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.losses import UNKNOWN_CLASS, total_loss
from napari_pcs.training.segmentation import Patches, Segmentation

HIGH, LOW = 8.0, -8.0


class Told(nn.Module):
    """Gives back the logits that it was told, whatever it is shown."""

    def __init__(self, logits, classes):
        super().__init__()
        self.logits, self.classes = nn.Parameter(logits), nn.Parameter(classes)

    def nodes(self):
        return (
            Node(DECODED, (IMAGE,), (), 1, lambda _: self.logits),
            Node(FEATURES, (IMAGE,), (), 0, lambda image: image.mean(dim=(2, 3, 4))),
        )

    def segment(self, decoded, features):
        return SegmentationOutput(decoded, features)

    def classify(self, features, volume):
        self.features, self.volume = features, volume
        return self.classes


def logits_of(skeleton, pcs):
    """Logits of *skeleton* and of *PCS given skeleton* along a line of voxels."""
    rows = [[HIGH if v else LOW for v in row] for row in (skeleton, pcs)]
    return torch.tensor(rows)[None, :, :, None, None]


def batch_of(skeleton, pcs, **changes):
    targets = torch.tensor([skeleton, pcs], dtype=torch.uint8)[None, :, :, None, None]
    return {
        f"{VALUE}{IMAGE}": torch.zeros(1, 1, len(skeleton), 1, 1, dtype=torch.float16),
        "targets": targets,
        "looked": torch.ones_like(targets[:, :1]),
        "class_index": torch.tensor([2]),
        "volumes": torch.zeros(1),
        "offsets": torch.zeros(1, 1),
        **changes,
    }


def lines():
    """Random logits and targets (1, 2, 2, 3, 4), and what was looked at."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 3, (1, 2, 3, 4), generator=generator)
    logits = torch.randn((1, 2, 2, 3, 4), generator=generator)
    looked = torch.rand((1, 1, 2, 3, 4), generator=generator) < 0.7
    return logits, torch.stack([labels >= 1, labels == 2], dim=1).to(torch.uint8), looked.to(torch.uint8)


# Figures


def test_the_dice_that_is_told_is_that_of_the_labels():
    """Skeleton: 3 found, 4 true, 2 of both, so 4/7. PCS: 1 found, 2 true, 1 of both, so 2/3."""
    network = Told(logits_of([1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0]), torch.zeros(1, 3))
    outcome = Segmentation(network, [network])(batch_of([1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0]))
    assert outcome.figures == {"dice_skeleton": pytest.approx(4 / 7), "dice_pcs": pytest.approx(2 / 3)}
    assert outcome.embedding is None


def test_the_dice_that_is_told_leaves_out_what_nobody_looked_at():
    """Of the first four voxels: skeleton 2 found, 2 true, 2 of both; PCS 1 found, 1 true, 1 of both."""
    network = Told(logits_of([1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1]), torch.zeros(1, 3))
    batch = batch_of([1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0])
    assert Segmentation(network, [network])(batch).figures["dice_skeleton"] < 1
    batch["looked"][0, 0, 4:] = 0
    assert Segmentation(network, [network])(batch).figures == {"dice_skeleton": 1, "dice_pcs": 1}


def test_pcs_where_nobody_has_any_has_no_dice():
    network = Told(logits_of([1, 0], [0, 0]), torch.zeros(1, 3))
    figures = Segmentation(network, [network])(batch_of([1, 1], [0, 0])).figures
    assert figures["dice_skeleton"] == pytest.approx(2 / 3)
    assert math.isnan(figures["dice_pcs"])


# The loss


def by_hand(logits, targets, looked, classes, index):
    """0.85 Dice + 0.15 cross-entropy, one looked-at voxel after another (eq. 9 of the first paper)."""
    overlap, found, wanted = np.zeros(2), np.zeros(2), np.zeros(2)
    for x, y, z in np.argwhere(looked[0, 0].numpy()):
        skeleton = 1 / (1 + math.exp(-logits[0, 0, x, y, z]))
        pcs = skeleton / (1 + math.exp(-logits[0, 1, x, y, z]))
        for channel, p in enumerate((skeleton, pcs)):
            t = float(targets[0, channel, x, y, z])
            overlap[channel] += p * t
            found[channel] += p
            wanted[channel] += t
    dice = np.mean(2 * overlap / (found + wanted))
    entropy = math.log(sum(math.exp(c) for c in classes)) - classes[index]
    return 0.85 * (1 - dice) + 0.15 * entropy


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_loss_is_the_one_of_the_paper(index):
    logits, targets, looked = lines()
    classes = [0.1, 0.7, -0.4]
    network = Told(logits, torch.tensor([classes]))
    batch = batch_of([0], [0], targets=targets, looked=looked, class_index=torch.tensor([index]))
    loss = Segmentation(network, [network])(batch).loss
    assert loss.item() == pytest.approx(by_hand(logits, targets, looked, classes, index), rel=1e-5)
    loss.backward()
    assert network.logits.grad.any()
    assert network.classes.grad.any()


def test_the_class_head_reads_the_volume_in_the_patch_and_beyond_it_and_the_features_of_the_hemisphere():
    network = Told(logits_of([1, 1, 0, 0], [1, 0, 1, 0]), torch.zeros(1, 3))
    batch = batch_of([1, 1, 0, 0], [1, 1, 0, 0], volumes=torch.tensor([37.0]), offsets=torch.tensor([[0.25]]))
    batch[f"{VALUE}{IMAGE}"] += 0.5
    Segmentation(network, [network])(batch)
    sigmoid = torch.sigmoid(network.logits)
    expected = 37 + (sigmoid[0, 0] * sigmoid[0, 1]).sum().item()
    assert network.volume.item() == pytest.approx(expected, rel=1e-6)
    assert network.features.tolist() == [[0.75]]


def test_the_volume_in_the_patch_has_gradients_and_that_beyond_it_is_a_number():
    network = Told(logits_of([1, 1], [1, 0]), torch.zeros(1, 3))
    Segmentation(network, [network])(batch_of([1, 1], [1, 0], volumes=torch.tensor([5.0])))
    (slope,) = torch.autograd.grad(network.volume.sum(), network.logits)
    assert slope[0, 0, 0] > 0


# What is judged


def test_the_mean_of_the_weights_is_judged_and_the_weights_themselves_train():
    network = Told(logits_of([1, 1], [1, 1]), torch.zeros(1, 3))
    task = Segmentation(network, [network])
    batch = batch_of([1, 1], [1, 1])
    task.after_step()
    with torch.no_grad():
        network.logits *= -1
    task.after_step()
    # The second of two steps counts for (3 + 1)/(2 + 3): -0.8 + 0.2 of the first logits.
    expected = torch.sigmoid(torch.tensor(-0.6 * HIGH))
    task.eval()
    task(batch)
    assert network.volume.item() == pytest.approx(2 * expected.item() ** 2, rel=1e-4)
    task.train()
    task(batch)
    assert network.volume.item() == pytest.approx(2 * torch.sigmoid(torch.tensor(LOW)).item() ** 2, rel=1e-4)


@pytest.mark.parametrize(
    ("figures", "judged"),
    [
        ({"dice_skeleton": 0.6, "dice_pcs": 0.3}, 0.55),
        ({"dice_skeleton": 0.6, "dice_pcs": None}, 0.4),
        ({"dice_skeleton": None, "dice_pcs": None}, 0.9),
    ],
)
def test_rounds_are_compared_by_the_dice_of_what_has_a_reference(figures, judged):
    network = Told(logits_of([1], [1]), torch.zeros(1, 3))
    assert Segmentation(network, [network]).judged(0.9, figures) == pytest.approx(judged)


# Patches of a network


@pytest.fixture
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


def task_of(strategy, seed=0):
    network = tiny_network(seed)
    prepare(network, strategy, lora=LoraConfig(), seed=0)
    return Segmentation(network, trained_modules(network)).train()


def patch_of(task, case, place=0, **settings):
    config = TuneConfig(**{"patch": 32, "patches": 2, "views": 1, **settings})
    return FrozenValues(task.network, config, None, StopToken()).patch(Item(Labelled.of(case), 0, place))


def gradients(task, loss):
    task.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("strategy", ["top", "decoder", "lora", "full"])
def test_a_patch_that_is_the_whole_hemisphere_has_the_loss_and_gradients_of_the_network(small_box, strategy):
    case, task = phantom(pcs_length_mm=30, seed=1), task_of(strategy)
    found = task(patch_of(task, case, patch=0)).loss
    example = build_example(case, position=True, multiple=32)
    logits, features = task.network(example.image)
    skeleton, given = logits.sigmoid().unbind(dim=1)
    classes = task.network.classify(features, (skeleton * given).sum(dim=(1, 2, 3)))
    expected = total_loss(logits, example.targets, classes, example.class_index, example.looked)
    assert example.class_index.item() == 1
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    ours, theirs = gradients(task, found), gradients(task, expected)
    assert ours.keys() == theirs.keys()
    for name, slope in ours.items():
        torch.testing.assert_close(slope, theirs[name], rtol=1e-3, atol=1e-6)


def test_what_is_wrong_where_nobody_looked_changes_neither_loss_nor_gradients(small_box):
    """The same case twice, partly done; in one of them all labels that nobody looked at are nonsense."""
    case = phantom(pcs_length_mm=60, seed=1)
    labels = case.truth[1].data
    x = int(np.median(np.argwhere(labels == 2)[:, 0]))
    looked = Looked(x=((x - 4, x + 1),))
    provenance = corrected_by().model_copy(update={"partly_done": True, "looked_at": looked})
    nonsense = np.random.default_rng(0).integers(0, 3, labels.shape).astype(np.uint8)
    wrong = np.where(looked.mask(labels.shape), labels, nonsense)
    task = task_of("top")
    patches, losses, slopes = [], [], []
    for data in (labels, wrong):
        patches.append(patch_of(task, case.with_labels(LabelRole.CORRECTED, data, provenance)))
        losses.append(task(patches[-1]).loss)
        slopes.append(gradients(task, losses[-1]))
    assert not torch.equal(patches[0]["targets"], patches[1]["targets"])
    assert not torch.equal(patches[0]["volumes"], patches[1]["volumes"])
    assert patches[0]["class_index"].item() == UNKNOWN_CLASS
    assert 0 < patches[0]["looked"].float().mean() < 1
    assert losses[0].item() == losses[1].item()
    assert all(torch.equal(slope, slopes[1][name]) for name, slope in slopes[0].items())
    assert any(slope.any() for slope in slopes[0].values())


# What trains


def test_what_does_not_train_stays_in_evaluation_mode():
    task = task_of("top")
    trained = {p for p in task.network.parameters() if p.requires_grad}
    for _ in range(2):
        assert task.train() is task
        for name, module in task.network.named_modules():
            own = set(module.parameters())
            if own:
                assert module.training == (own <= trained), name
        task.eval()
        assert not any(m.training for m in task.network.modules())


class Two(nn.Module):
    """Two batch normalisations, one after the other."""

    def __init__(self):
        super().__init__()
        self.frozen, self.trained, self.head = nn.BatchNorm3d(1), nn.BatchNorm3d(1), nn.Linear(1, 3)

    def nodes(self):
        return (
            Node(DECODED, (IMAGE,), ("frozen", "trained"), 1, lambda image: self.trained(self.frozen(image))),
            Node(FEATURES, (DECODED,), (), 0, lambda decoded: decoded.mean(dim=(2, 3, 4))),
        )

    def segment(self, decoded, features):
        return SegmentationOutput(decoded.repeat(1, 2, 1, 1, 1), features)

    def classify(self, features, volume):
        return self.head(features)


def test_the_statistics_of_what_does_not_train_stay_as_they_are():
    network = Two()
    before = tensors_of(network)
    batch = batch_of([1, 1, 0, 1], [1, 0, 0, 0])
    batch[f"{VALUE}{IMAGE}"] = torch.rand(batch[f"{VALUE}{IMAGE}"].shape)
    Segmentation(network, [network.trained, network.head]).train()(batch)
    changed = {name for name, t in tensors_of(network).items() if not torch.equal(before[name], t)}
    assert changed == {f"trained.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


# Batches


class Kept:
    """Patches that say which they are; those of the named cases are narrower."""

    def __init__(self, counts, narrow=()):
        self.counts, self.narrow = counts, narrow

    def count(self, case, view):
        return self.counts[case]

    def patch(self, item):
        number = torch.tensor([[sorted(self.counts).index(item.case), item.view, item.place]])
        side = 2 if item.case in self.narrow else 4
        return {"value/x": torch.zeros(1, 3, side, 4, 4), "targets": torch.zeros(1, 2, side, 4, 4), "number": number}


def numbers(batches):
    """Which patches each batch holds."""
    return [[tuple(row) for row in drawn.batch["number"].tolist()] for drawn in batches]


def test_a_round_is_what_was_drawn_for_it_in_batches():
    items = {n: [Item("ab"[(n + i) % 2], 0, i) for i in range(6)] for n in range(2)}
    batches = Patches(Kept({"a": 6, "b": 6}), items.__getitem__, [], batch_size=2, round_steps=3)
    for n, drawn in items.items():
        flat = [("ab".index(item.case), 0, item.place) for item in drawn]
        assert numbers(batches.epoch(n)) == [flat[0:2], flat[2:4], flat[4:6]]
        assert numbers(batches.epoch(n, 2)) == [flat[4:6]]
    assert batches.steps_per_epoch == 3
    assert list(batches.validation()) == []


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_patch_of_every_held_out_case_judges_as_it_is_and_once(batch_size):
    counts = {"a": 3, "b": 4, "c": 1}
    batches = Patches(Kept(counts, narrow="b"), lambda _: [], list(counts), batch_size, 2)
    found = [number for batch in numbers(batches.validation()) for number in batch]
    assert sorted(found) == [(n, 0, place) for n, count in enumerate(counts.values()) for place in range(count)]


def test_patches_of_different_sizes_never_share_a_batch_and_hardly_any_is_left_out():
    """Four narrow ones and eight others in six batches of two."""
    items = [Item(case, 0, place) for place, case in enumerate("abaabaababaa")]
    batches = Patches(Kept({"a": 12, "b": 12}, narrow="b"), lambda _: items, [], batch_size=2, round_steps=6)
    found = numbers(batches.epoch(0))
    assert all(len({case for case, _, _ in batch}) == 1 for batch in found)
    assert len(found) == 6
    flat = [number for batch in found for number in batch]
    assert sorted(flat) == sorted(("ab".index(item.case), 0, item.place) for item in items)
