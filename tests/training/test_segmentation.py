import math

import pytest
import torch
from networks import tensors_of, tiny_network
from torch import nn

from napari_pcs.models.contract import SegmentationOutput
from napari_pcs.strategies import prepare, trained_modules
from napari_pcs.training.losses import total_loss
from napari_pcs.training.segmentation import Example, Examples, Segmentation

HIGH, LOW = 8.0, -8.0


class Told(nn.Module):
    """Gives back the logits that it was told, whatever it is shown."""

    def __init__(self, logits, classes):
        super().__init__()
        self.logits, self.classes = nn.Parameter(logits), nn.Parameter(classes)

    def forward(self, image):
        return SegmentationOutput(self.logits, torch.zeros(len(image), 1))

    def classify(self, features, volume):
        self.volume = volume
        return self.classes


def logits_of(skeleton, pcs):
    """Logits of *skeleton* and of *PCS given skeleton* along a line of voxels."""
    rows = [[HIGH if v else LOW for v in row] for row in (skeleton, pcs)]
    return torch.tensor(rows)[None, :, :, None, None]


def batch_of(skeleton, pcs):
    targets = torch.tensor([skeleton, pcs], dtype=torch.float32)[None, :, :, None, None]
    return {"image": torch.zeros(1, 1, len(skeleton), 1, 1), "targets": targets, "class_index": torch.tensor([2])}


def test_the_dice_that_is_told_is_that_of_the_labels():
    """Skeleton: 3 found, 4 true, 2 of both, so 4/7. PCS: 1 found, 2 true, 1 of both, so 2/3."""
    network = Told(logits_of([1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0]), torch.zeros(1, 3))
    batch = batch_of([1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0])
    outcome = Segmentation(network, [network])(batch)
    assert outcome.figures == {"dice_skeleton": pytest.approx(4 / 7), "dice_pcs": pytest.approx(2 / 3)}
    assert outcome.embedding is None


def test_pcs_where_nobody_has_any_has_no_dice():
    network = Told(logits_of([1, 0], [0, 0]), torch.zeros(1, 3))
    figures = Segmentation(network, [network])(batch_of([1, 1], [0, 0])).figures
    assert figures["dice_skeleton"] == pytest.approx(2 / 3)
    assert math.isnan(figures["dice_pcs"])


def test_the_loss_is_that_of_the_paper_and_the_class_head_sees_the_volume_of_the_pcs():
    network = Told(logits_of([1, 1, 0, 0], [1, 0, 1, 0]), torch.tensor([[0.1, 0.7, -0.4]]))
    batch = batch_of([1, 1, 0, 0], [1, 1, 0, 0])
    loss = Segmentation(network, [network])(batch).loss
    expected = total_loss(network.logits, batch["targets"], network.classes, batch["class_index"])
    assert loss.item() == expected.item()
    sigmoid = torch.sigmoid(network.logits)
    assert float(network.volume) == pytest.approx(float((sigmoid[0, 0] * sigmoid[0, 1]).sum()), rel=1e-5)
    loss.backward()
    assert network.logits.grad.any()


def test_what_does_not_train_stays_in_evaluation_mode():
    network = tiny_network()
    prepare(network, "top")
    trained = trained_modules(network, "top")
    task = Segmentation(network, trained)
    inside = {id(m) for module in trained for m in module.modules()}
    for _ in range(2):
        assert task.train() is task
        modes = {name: m.training for name, m in network.named_modules()}
        assert {name for name, on in modes.items() if on} == {
            name for name, m in network.named_modules() if id(m) in inside
        }
        assert 0 < sum(modes.values()) < len(modes)
        task.eval()
        assert not any(m.training for m in network.modules())


def test_the_statistics_of_what_does_not_train_stay_as_they_are():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.trained = nn.BatchNorm3d(1), nn.BatchNorm3d(1)
            self.head = nn.Linear(1, 3)

        def forward(self, image):
            found = self.trained(self.frozen(image))
            return SegmentationOutput(found.repeat(1, 2, 1, 1, 1), found.mean(dim=(2, 3, 4)))

        def classify(self, features, volume):
            return self.head(features)

    network = Two()
    before = tensors_of(network)
    batch = batch_of([1, 1, 0, 1], [1, 0, 0, 0])
    batch["image"] = torch.rand(batch["image"].shape)
    Segmentation(network, [network.trained, network.head]).train()(batch)
    changed = {name for name, t in tensors_of(network).items() if not torch.equal(before[name], t)}
    assert changed == {f"trained.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def examples(count):
    image = torch.arange(float(count))
    return Examples(
        [Example(f"{n}", image[n].reshape(1, 1), torch.zeros(1, 2), torch.zeros(1)) for n in range(count)], seed=4
    )


def test_every_example_comes_once_in_an_epoch_in_an_order_of_its_own():
    found = examples(9)
    orders = [[int(drawn.batch["image"]) for drawn in found.epoch(n)] for n in (0, 0, 1)]
    assert sorted(orders[0]) == list(range(9))
    assert orders[0] == orders[1] != orders[2]
    assert [int(drawn.batch["image"]) for drawn in found.epoch(0, 4)] == orders[0][4:]
    assert found.steps_per_epoch == 9
    assert list(found.validation()) == []
