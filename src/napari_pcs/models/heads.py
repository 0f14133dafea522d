"""Heads and the reading of their outputs as probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_pcs.labels import PcsClass

__all__ = ["ClassHead", "channel_probabilities"]


class ClassHead(nn.Module):
    """Class of a whole hemisphere from its mean encoder features and its predicted PCS volume.

    The volume carries what the class is defined by (extent), the features what the segmentation
    may have missed.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.out = nn.Linear(features + 1, len(PcsClass.measured()))

    def forward(self, features: Tensor, pcs_volume: Tensor) -> Tensor:
        """Return logits (batch, 3); see `Network.classify`."""
        evidence = torch.log1p(pcs_volume)[:, None] - _TYPICAL_LOG_VOLUME
        return torch.as_tensor(self.out(torch.cat([self.norm(features), evidence], dim=1)))


_TYPICAL_LOG_VOLUME = 5.0


def channel_probabilities(logits: Tensor) -> Tensor:
    """Turn nested logits (batch, 2, ...) into probabilities of the channels *skeleton* and *PCS*.

    The PCS is part of the skeleton, so P(PCS) = P(skeleton) P(PCS | skeleton) and can never exceed
    P(skeleton).
    """
    skeleton, given = torch.sigmoid(logits).unbind(dim=1)
    return torch.stack([skeleton, skeleton * given], dim=1)
