"""Soft assignment of samples to prototypes such that every prototype gets an equal share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sinkhorn"]


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Return the entropic optimal transport from samples to equally used prototypes.

    Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
    eq. 3-5: Q = Diag(u) exp(scores / epsilon) Diag(v), u and v found by normalising in turns
    (Cuturi 2013). Done on logarithms, so no epsilon makes it overflow or divide zero by zero.

    Parameters
    ----------
    scores
        (samples, prototypes): cosine of each sample with each prototype.
    epsilon
        Smoothness > 0: the larger, the more evenly a sample is spread over prototypes.
    iterations
        Of normalising the prototypes, then the samples.

    Returns
    -------
    Tensor
        (samples, prototypes) float32: each sample's shares sum to 1, and each prototype's to about
        samples / prototypes, the closer the more iterations. No gradient passes.

    Raises
    ------
    ValueError
        If there are no scores, or a setting is out of range.
    """
    if scores.ndim != 2 or not scores.numel() or not epsilon > 0 or iterations < 1:
        msg = (
            f"Sinkhorn: found scores of shape {tuple(scores.shape)}, epsilon {epsilon:g} and {iterations} iterations,"
            " expected (samples, prototypes), epsilon above 0 and at least one iteration."
        )
        raise ValueError(msg)
    samples, prototypes = scores.shape
    logs = scores.float() / epsilon
    for _ in range(iterations):
        logs = logs - torch.logsumexp(logs, dim=0, keepdim=True) + math.log(samples / prototypes)
        logs = logs - torch.logsumexp(logs, dim=1, keepdim=True)
    return logs.exp()
