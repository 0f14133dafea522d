import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from napari_pcs.training.losses import (
    UNKNOWN_CLASS,
    dice_loss,
    nested_cross_entropy,
    segmentation_targets,
    total_loss,
)

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


# Voxels that nobody looked at


def seen_in(seed=0, shape=SHAPE):
    """A record of what was looked at, with both kinds of voxel in every sample."""
    return torch.rand((shape[0], 1, *shape[1:]), generator=torch.Generator().manual_seed(100 + seed)) < 0.4


def voxel_by_voxel(logits, targets, looked, pcs_weight=1.0):
    """Dice loss and nested cross-entropy as their formulas say, one looked-at voxel after another."""
    overlap, found, wanted = np.zeros(2), np.zeros(2), np.zeros(2)
    outer, inner = [], []
    for b, *voxel in np.argwhere(looked[:, 0].numpy()):
        o, i = (float(logits[(b, c, *voxel)]) for c in (0, 1))
        t = [float(targets[(b, c, *voxel)]) for c in (0, 1)]
        p = 1 / (1 + math.exp(-o))
        for c, value in enumerate((p, p / (1 + math.exp(-i)))):
            overlap[c] += value * t[c]
            found[c] += value
            wanted[c] += t[c]
        outer.append(-math.log(p if t[0] else 1 - p))
        if t[0]:
            given = 1 / (1 + math.exp(-i))
            inner.append(-pcs_weight * math.log(given) if t[1] else -math.log(1 - given))
    occurs = wanted > 0
    return 1 - np.mean((2 * overlap / (found + wanted))[occurs]), np.mean(outer) + np.mean(inner)


@pytest.mark.parametrize("seed", range(3))
def test_what_nobody_looked_at_is_as_if_it_were_not_there(seed):
    logits, targets, _ = batch(seed)
    looked = seen_in(seed)
    dice, nested = voxel_by_voxel(logits, targets, looked, pcs_weight=3)
    skeleton, given = logits.sigmoid().unbind(dim=1)
    found = dice_loss(torch.stack([skeleton, skeleton * given], dim=1), targets, looked)
    assert float(found) == pytest.approx(dice, abs=1e-12)
    assert float(nested_cross_entropy(logits, targets, looked, pcs_weight=3)) == pytest.approx(nested, abs=1e-12)
    assert float(total_loss(logits, targets, None, None, looked)) == pytest.approx(0.85 * dice, abs=1e-12)


def test_labels_and_logits_that_nobody_looked_at_change_no_bit_of_the_loss():
    logits, targets, _ = batch()
    looked = seen_in()
    others = [torch.where(looked, logits, -7 * logits), torch.where(looked, targets, 1 - targets)]
    for loss in (lambda a, b: total_loss(a, b, None, None, looked), lambda a, b: nested_cross_entropy(a, b, looked)):
        assert float(loss(*others)) == float(loss(logits, targets))


def test_no_gradient_reaches_what_nobody_looked_at_and_one_reaches_all_else():
    logits, targets, _ = batch()
    looked = seen_in()
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(total_loss(logits, targets, None, None, looked), logits)
    assert not slope[~looked.expand_as(slope)].any()
    assert slope[looked.expand_as(slope)].all()
    (slope,) = torch.autograd.grad(nested_cross_entropy(logits, targets, looked), logits)
    assert torch.equal(slope[:, 0] != 0, looked[:, 0])
    assert torch.equal(slope[:, 1] != 0, looked[:, 0] & (targets[:, 0] > 0))


def test_where_all_was_looked_at_losses_and_gradients_are_the_same_to_the_last_bit():
    logits, targets, _ = batch(shape=(2, 8, 9, 10))
    logits, targets = logits.float(), targets.float()
    everything = torch.ones(2, 1, 8, 9, 10, dtype=torch.bool)
    class_logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits.requires_grad_()
    index = torch.tensor([2, 0])
    for loss in (
        lambda *looked: total_loss(logits, targets, class_logits, index, *looked),
        lambda *looked: nested_cross_entropy(logits, targets, *looked) + 0 * class_logits.sum(),
        lambda *looked: dice_loss(logits.sigmoid(), targets, *looked) + 0 * class_logits.sum(),
    ):
        one, two = loss(), loss(everything)
        assert torch.equal(one, two)
        slopes = [torch.autograd.grad(value, (logits, class_logits)) for value in (one, two)]
        assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_where_nothing_was_looked_at_the_loss_is_0_and_still_has_gradients():
    logits, targets, _ = batch()
    nothing = torch.zeros(2, 1, *SHAPE[1:], dtype=torch.bool)
    logits.requires_grad_()
    for value in (total_loss(logits, targets, None, None, nothing), nested_cross_entropy(logits, targets, nothing)):
        assert float(value) == 0
        assert not torch.autograd.grad(value, logits)[0].any()


def test_a_class_that_nobody_knows_costs_nothing():
    logits, targets, _ = batch()
    class_logits = torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.0, 0.0]]).double().requires_grad_()
    plain = total_loss(logits, targets, None, None)
    neither = total_loss(logits, targets, class_logits, torch.tensor([UNKNOWN_CLASS, UNKNOWN_CLASS]))
    assert float(neither) == float(plain)
    assert not torch.autograd.grad(neither, class_logits)[0].any()
    second = total_loss(logits, targets, class_logits, torch.tensor([UNKNOWN_CLASS, 1]))
    cost = -math.log(1 / (math.e**3 + 2))
    assert float(second) == pytest.approx(float(plain) + 0.15 * cost, abs=1e-12)
    (slope,) = torch.autograd.grad(second, class_logits)
    assert not slope[0].any()
    assert slope[1].all()


def test_known_classes_cost_what_their_mean_cross_entropy_says_to_the_last_bit():
    logits, targets, _ = batch(shape=(4, 3, 4, 5))
    class_logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    index = torch.tensor([0, 1, 2, 1])
    plain = total_loss(logits, targets, None, None)
    found = total_loss(logits, targets, class_logits, index) - plain
    expected = plain + 0.15 * F.cross_entropy(class_logits, index) - plain
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad(value, class_logits)[0] for value in (found, expected)]
    assert torch.equal(*slopes)
