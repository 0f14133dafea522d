import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from napari_pcs.training.losses import dice_loss, nested_cross_entropy, segmentation_targets, total_loss

SHAPE = (2, 4, 5, 6)


def batch(seed=0, shape=SHAPE, pcs=True):
    """Logits and targets, in which all three kinds of voxel occur."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3 if pcs else 2, shape, generator=generator)
    logits = torch.randn((shape[0], 2, *shape[1:]), generator=generator, dtype=torch.float64)
    return logits, segmentation_targets(labels).double(), labels


def certain(targets, size=60.0):
    """Logits of a network that is sure of the targets."""
    return (2 * targets - 1) * size


def test_targets_are_skeleton_with_the_pcs_and_the_pcs_alone():
    targets = segmentation_targets(torch.tensor([0, 1, 2]).reshape(1, 1, 1, 3))
    assert targets.reshape(2, 3).tolist() == [[0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("seed", range(3))
def test_dice_loss_is_what_the_formula_says_and_what_monai_computes(seed):
    logits, targets, _ = batch(seed)
    probabilities = logits.sigmoid()
    p, r = probabilities.numpy(), targets.numpy()
    scores = [2 * (p[:, c] * r[:, c]).sum() / (p[:, c].sum() + r[:, c].sum()) for c in (0, 1)]
    assert float(dice_loss(probabilities, targets)) == pytest.approx(1 - np.mean(scores), abs=1e-12)
    monai = DiceLoss(batch=True, smooth_nr=0, smooth_dr=0)(probabilities, targets)
    assert float(dice_loss(probabilities, targets)) == pytest.approx(float(monai), abs=1e-9)


def test_dice_loss_of_thresholded_masks_is_one_minus_dice():
    one = torch.zeros(1, 1, 4, 4, 4)
    two = one.clone()
    one[..., :2, :, :], two[..., 1:3, :, :] = 1, 1
    assert float(dice_loss(one, two)) == pytest.approx(0.5)


def test_a_channel_without_reference_says_nothing_about_overlap():
    logits, targets, _ = batch(pcs=False)
    probabilities = logits.sigmoid().requires_grad_()
    loss = dice_loss(probabilities, targets)
    assert float(loss) == pytest.approx(float(dice_loss(probabilities[:, :1], targets[:, :1])))
    loss.backward()
    assert not probabilities.grad[:, 1].any()
    assert probabilities.grad[:, 0].any()


def test_without_any_reference_the_loss_is_0_and_still_has_gradients():
    probabilities = torch.full((1, 2, 3, 3, 3), 0.3, requires_grad=True)
    loss = dice_loss(probabilities, torch.zeros(1, 2, 3, 3, 3))
    assert float(loss) == 0
    loss.backward()
    assert not probabilities.grad.any()


def nested_as_three_classes(logits, labels):
    """Log probabilities of background, other skeleton and PCS, and the true class."""
    outer, inner = logits.unbind(dim=1)
    other = outer - F.softplus(inner)
    return torch.stack([torch.zeros_like(outer), other, other + inner], dim=1), labels


@pytest.mark.parametrize("seed", range(3))
def test_nested_cross_entropy_is_the_cross_entropy_of_three_classes(seed):
    logits, targets, labels = batch(seed)
    three = F.cross_entropy(*nested_as_three_classes(logits, labels), reduction="none")
    # Ours averages each of the two questions over the voxels that it is asked of.
    skeleton = targets[:, 0] > 0
    outer = F.binary_cross_entropy_with_logits(logits[:, 0], targets[:, 0], reduction="sum")
    inner = three.sum() - outer
    expected = outer / labels.numel() + inner / skeleton.sum()
    assert float(nested_cross_entropy(logits, targets)) == pytest.approx(float(expected), abs=1e-10)


def test_where_everything_is_skeleton_it_is_the_mean_three_class_cross_entropy():
    logits, _, labels = batch()
    labels = labels.clamp_min(1)
    expected = F.cross_entropy(*nested_as_three_classes(logits, labels))
    found = nested_cross_entropy(logits, segmentation_targets(labels).double())
    assert float(found) == pytest.approx(float(expected), abs=1e-10)


def test_weights_count_positive_voxels_more_often():
    logits, targets, _ = batch()
    o, i = logits[:, 0].numpy(), logits[:, 1].numpy()
    skeleton, pcs = targets.numpy()[:, 0] > 0, targets.numpy()[:, 1] > 0
    outer = np.where(skeleton, 3 * np.log1p(np.exp(-o)), np.log1p(np.exp(o))).mean()
    inner = np.where(pcs, 7 * np.log1p(np.exp(-i)), np.log1p(np.exp(i)))[skeleton].mean()
    found = nested_cross_entropy(logits, targets, skeleton_weight=3, pcs_weight=7)
    assert float(found) == pytest.approx(outer + inner, abs=1e-10)


def test_the_pcs_is_not_asked_about_outside_the_skeleton():
    logits, targets, _ = batch()
    other = logits.clone()
    other[:, 1][targets[:, 0] == 0] = 50
    assert float(nested_cross_entropy(other, targets)) == float(nested_cross_entropy(logits, targets))
    empty = torch.zeros_like(targets)
    expected = F.softplus(logits[:, 0]).mean()
    assert float(nested_cross_entropy(logits, empty)) == pytest.approx(float(expected), abs=1e-12)


def test_the_total_is_85_parts_dice_and_15_parts_class():
    logits, targets, _ = batch()
    class_logits, index = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]).double(), torch.tensor([0, 2])
    skeleton = logits[:, 0].sigmoid()
    dice = dice_loss(torch.stack([skeleton, skeleton * logits[:, 1].sigmoid()], dim=1), targets)
    classes = (math.log(math.e + math.e**2 + math.e**0.5) - 1 + math.log(3)) / 2
    found = total_loss(logits, targets, class_logits, index)
    assert float(found) == pytest.approx(0.85 * float(dice) + 0.15 * classes, abs=1e-12)
    assert float(total_loss(logits, targets, None, None)) == pytest.approx(0.85 * float(dice), abs=1e-12)


def test_a_perfect_prediction_costs_nothing_and_its_opposite_much():
    _, targets, _ = batch()
    index = torch.tensor([0, 2])
    classes = F.one_hot(index, 3).double() * 60
    assert float(total_loss(certain(targets), targets, classes, index)) == pytest.approx(0, abs=1e-6)
    assert float(nested_cross_entropy(certain(targets), targets)) == pytest.approx(0, abs=1e-6)
    wrong = 1 - targets
    assert float(total_loss(certain(wrong), targets, None, None)) == pytest.approx(0.85, abs=1e-6)


def test_the_order_of_the_batch_does_not_matter():
    logits, targets, _ = batch(shape=(4, 3, 4, 5))
    class_logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
    index = torch.tensor([0, 1, 2, 1])
    order = torch.tensor([2, 0, 3, 1])
    one = total_loss(logits, targets, class_logits, index)
    two = total_loss(logits[order], targets[order], class_logits[order], index[order])
    assert float(one) == pytest.approx(float(two), abs=1e-12)
    one, two = (nested_cross_entropy(logits[o], targets[o]) for o in (torch.arange(4), order))
    assert float(one) == pytest.approx(float(two), abs=1e-12)


def test_the_gradient_is_the_slope_of_the_loss():
    logits, targets, _ = batch(shape=(1, 2, 3, 2))
    class_logits = torch.randn(1, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    logits.requires_grad_()
    index = torch.tensor([1])
    assert torch.autograd.gradcheck(lambda a, b: total_loss(a, targets, b, index), (logits, class_logits))
    assert torch.autograd.gradcheck(lambda a: nested_cross_entropy(a, targets, pcs_weight=4), (logits,))
