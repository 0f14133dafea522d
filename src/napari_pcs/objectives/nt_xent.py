"""Cross-entropy of finding, among all views of a batch, the other view of the same sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["nt_xent", "partner_accuracy", "similarities"]

_SHORTEST = 1e-8
"""Embeddings shorter than this count as zero: their direction is rounding error."""


def nt_xent(embedding: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy over all pairs, in both directions.

    For views i and j of one sample, with sim the cosine::

        l(i, j) = -log( exp(sim(x_i, x_j) / t) / sum over k != i of exp(sim(x_i, x_k) / t) )

    (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
    eq. 1), averaged over all ordered pairs. Computed in single precision whatever the embedding's,
    because bf16 cannot tell similarities near 1 apart.

    Parameters
    ----------
    embedding
        (batch, 2, channels): two views of each sample.
    temperature
        t > 0; the smaller, the more the most similar wrong views count.

    Returns
    -------
    Tensor
        Scalar; log(2 batch - 1) if all views are alike.

    Raises
    ------
    ValueError
        If there are not two views of each sample, or the temperature is not above 0.
    """
    if not temperature > 0:
        msg = f"NT-Xent: found a temperature of {temperature:g}, expected one above 0."
        raise ValueError(msg)
    with torch.autocast(embedding.device.type, enabled=False):
        return F.cross_entropy(similarities(embedding) / temperature, _partners(embedding))


def partner_accuracy(embedding: Tensor) -> Tensor:
    """Return the share of views whose most similar view is the other one of the same sample."""
    with torch.autocast(embedding.device.type, enabled=False), torch.no_grad():
        found = similarities(embedding).argmax(dim=1)
        return (found == _partners(embedding)).float().mean()


def similarities(embedding: Tensor) -> Tensor:
    """Return the cosines (2 batch, 2 batch) of all views of (batch, 2, channels), -inf with themselves.

    Raises
    ------
    ValueError
        If there are not two views of each sample.
    """
    if embedding.ndim != 3 or embedding.shape[1] != 2:
        msg = f"NT-Xent: found an embedding of shape {tuple(embedding.shape)}, expected (batch, 2, channels)."
        raise ValueError(msg)
    unit = F.normalize(embedding.float().flatten(0, 1), dim=1, eps=_SHORTEST)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (unit @ unit.T).masked_fill(itself, -torch.inf)


def _partners(embedding: Tensor) -> Tensor:
    """Row of the other view: 1, 0, 3, 2, ..."""
    return torch.arange(2 * len(embedding), device=embedding.device) ^ 1
