"""Directions on the unit sphere that samples are assigned to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Prototypes", "perplexity"]


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have length 1.

    Parameters
    ----------
    channels
        Length of an embedding.
    count
        Number of prototypes.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, channels), dim=1))

    def forward(self, unit: Tensor) -> Tensor:
        """Return the cosines (..., count) of embeddings (..., channels) of length 1."""
        return F.linear(unit, self.weight)

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring every row back to length 1, in place."""
        self.weight.copy_(F.normalize(self.weight, dim=1))


@torch.no_grad()
def perplexity(assignments: Tensor) -> Tensor:
    """Return how many prototypes are in use, judged by each sample's favourite one.

    The exponential of the entropy of how often each is the favourite: 1 if all samples share one
    (collapse), the number of prototypes if all are equally frequent, never more than the samples.

    Parameters
    ----------
    assignments
        (samples, prototypes): shares or scores.
    """
    counts = torch.bincount(assignments.argmax(dim=1), minlength=assignments.shape[1]).float()
    return torch.as_tensor(torch.special.entr(counts / len(assignments)).sum().exp())
