"""Losses of segmentation and classification."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_pcs.models.heads import channel_probabilities

__all__ = ["dice_loss", "nested_cross_entropy", "segmentation_targets", "total_loss"]

DICE_WEIGHT = 0.85
CLASS_WEIGHT = 0.15
"""Weights of the segmentation and the class term after several attempts of the first paper (eq. 9)."""


def segmentation_targets(labels: Tensor) -> Tensor:
    """Return the channels *skeleton* (label >= 1) and *PCS* (label == 2) of labels (batch, x, y, z)."""
    return torch.stack([labels >= 1, labels == 2], dim=1).float()


def dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Soft Dice loss, averaged over the channels that occur in the reference.

    1 - 2 |P R| / (|P| + |R|) over the whole batch, per channel (Milletari et al. 2016 without the
    squares). A channel with an empty reference says nothing about overlap and is left out; the
    cross-entropy answers for false positives there.

    Parameters
    ----------
    probabilities, targets
        (batch, channel, x, y, z), in [0, 1].
    """
    axes = (0, *range(2, probabilities.ndim))
    overlap = (probabilities * targets).sum(axes)
    size = targets.sum(axes)
    score = 2 * overlap / (probabilities.sum(axes) + size).clamp_min(1e-6)
    occurs = size > 0
    if not occurs.any():
        return probabilities.sum() * 0
    return 1 - score[occurs].mean()


def nested_cross_entropy(
    logits: Tensor, targets: Tensor, *, skeleton_weight: float = 1.0, pcs_weight: float = 1.0
) -> Tensor:
    """Cross-entropy of the nested outputs.

    Skeleton against background over all voxels, and PCS against other skeleton over the reference
    skeleton only, where that question has an answer.

    Parameters
    ----------
    logits
        (batch, 2, x, y, z): skeleton, PCS given skeleton.
    targets
        (batch, 2, x, y, z): skeleton, PCS.
    skeleton_weight, pcs_weight
        Weight of a positive voxel relative to a negative one.
    """
    skeleton, pcs = targets.unbind(dim=1)
    outer = F.binary_cross_entropy_with_logits(logits[:, 0], skeleton, pos_weight=logits.new_tensor(skeleton_weight))
    where = skeleton > 0
    if not where.any():
        return outer
    inner = F.binary_cross_entropy_with_logits(
        logits[:, 1][where], pcs[where], pos_weight=logits.new_tensor(pcs_weight)
    )
    return outer + inner


def total_loss(logits: Tensor, targets: Tensor, class_logits: Tensor | None, class_index: Tensor | None) -> Tensor:
    """Tuning loss of the first paper, eq. 9: 0.85 Dice + 0.15 cross-entropy of the class.

    Without a class (a patch does not have one) only the segmentation term remains.
    """
    loss = DICE_WEIGHT * dice_loss(channel_probabilities(logits), targets)
    if class_logits is None or class_index is None:
        return loss
    return loss + CLASS_WEIGHT * F.cross_entropy(class_logits, class_index)
