"""Losses of segmentation and classification."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_pcs.models.heads import channel_probabilities

__all__ = ["UNKNOWN_CLASS", "dice_loss", "nested_cross_entropy", "segmentation_targets", "total_loss"]

DICE_WEIGHT = 0.85
CLASS_WEIGHT = 0.15
"""Weights of the segmentation and the class term after several attempts of the first paper (eq. 9)."""
UNKNOWN_CLASS = -100
"""Class index of a hemisphere whose class nobody knows."""


def segmentation_targets(labels: Tensor) -> Tensor:
    """Return the channels *skeleton* (label >= 1) and *PCS* (label == 2) of labels (batch, x, y, z)."""
    return torch.stack([labels >= 1, labels == 2], dim=1).float()


def dice_loss(probabilities: Tensor, targets: Tensor, looked: Tensor | None = None) -> Tensor:
    """Soft Dice loss, averaged over the channels that occur in the reference.

    1 - 2 |P R| / (|P| + |R|) over the whole batch, per channel (Milletari et al. 2016 without the
    squares). A channel with an empty reference says nothing about overlap and is left out; the
    cross-entropy answers for false positives there.

    Parameters
    ----------
    probabilities, targets
        (batch, channel, x, y, z), in [0, 1].
    looked
        (batch, 1, x, y, z), bool: the other voxels are as if they were not there. All, if left out.
    """
    if looked is not None:
        nothing = probabilities.new_zeros(())
        probabilities, targets = torch.where(looked, probabilities, nothing), torch.where(looked, targets, nothing)
    axes = (0, *range(2, probabilities.ndim))
    overlap = (probabilities * targets).sum(axes)
    size = targets.sum(axes)
    score = 2 * overlap / (probabilities.sum(axes) + size).clamp_min(1e-6)
    occurs = size > 0
    if not occurs.any():
        return probabilities.sum() * 0
    return 1 - score[occurs].mean()


def nested_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    looked: Tensor | None = None,
    *,
    skeleton_weight: float = 1.0,
    pcs_weight: float = 1.0,
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
    looked
        (batch, 1, x, y, z), bool: the means are over these voxels. All, if left out.
    skeleton_weight, pcs_weight
        Weight of a positive voxel relative to a negative one.
    """
    (outer, inner), (skeleton, pcs) = logits.unbind(dim=1), targets.unbind(dim=1)
    if looked is not None:
        seen = looked.expand_as(targets[:, :1])[:, 0]
        outer, inner, skeleton, pcs = (values[seen] for values in (outer, inner, skeleton, pcs))
        if not len(skeleton):
            return logits.sum() * 0
    loss = F.binary_cross_entropy_with_logits(outer, skeleton, pos_weight=logits.new_tensor(skeleton_weight))
    where = skeleton > 0
    if not where.any():
        return loss
    return loss + F.binary_cross_entropy_with_logits(inner[where], pcs[where], pos_weight=logits.new_tensor(pcs_weight))


def total_loss(
    logits: Tensor,
    targets: Tensor,
    class_logits: Tensor | None,
    class_index: Tensor | None,
    looked: Tensor | None = None,
) -> Tensor:
    """Tuning loss of the first paper, eq. 9: 0.85 Dice + 0.15 cross-entropy of the class.

    Parameters
    ----------
    logits, targets
        (batch, 2, x, y, z): skeleton, PCS given skeleton; skeleton, PCS.
    class_logits, class_index
        (batch, 3) and (batch,); `UNKNOWN_CLASS` where the class is not known, which then costs nothing.
        Without a class (a patch does not have one) only the segmentation term remains.
    looked
        (batch, 1, x, y, z), bool: the voxels that count. All, if left out.
    """
    loss = DICE_WEIGHT * dice_loss(channel_probabilities(logits), targets, looked)
    if class_logits is None or class_index is None:
        return loss
    # Not reduction="mean": a batch without any known class would be 0 / 0.
    classes = F.cross_entropy(class_logits, class_index, ignore_index=UNKNOWN_CLASS, reduction="sum")
    known = (class_index != UNKNOWN_CLASS).sum().clamp_min(1)
    return loss + CLASS_WEIGHT * (classes / known)
