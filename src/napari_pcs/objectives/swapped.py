"""Predicting the assignment of one view of a sample from the other views."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["swapped_prediction"]


def swapped_prediction(scores: Tensor, assignments: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy between each assigned view and all other views.

    Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
    eq. 1-2, and its multi-crop form, eq. 6: with q the assignments and p the softmax of scores over
    the temperature, the mean over assigned views i, other views v != i and samples of
    -sum over k of q_ik log p_vk.

    Parameters
    ----------
    scores
        (samples, views, prototypes): cosines; the assigned views come first.
    assignments
        (samples, assigned views, prototypes): shares that sum to 1; no gradient passes.
    temperature
        Above 0.

    Raises
    ------
    ValueError
        If there are fewer than two views, or more assigned ones than views.
    """
    views, assigned = scores.shape[1], assignments.shape[1]
    if views < 2 or assigned > views:
        msg = f"Swapped prediction: found {assigned} assigned of {views} views, expected some of at least two."
        raise ValueError(msg)
    logs = F.log_softmax(scores.float() / temperature, dim=2)
    pairs = -(assignments.detach().unsqueeze(2) * logs.unsqueeze(1)).sum(dim=3)
    own = pairs[:, range(assigned), range(assigned)]
    return (pairs.sum(dim=(1, 2)) - own.sum(dim=1)).mean() / (assigned * (views - 1))
