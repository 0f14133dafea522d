"""The head between an embedding and a loss that compares samples; thrown away after pre-training."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Projector"]


class Projector(nn.Module):
    """Linear layers with batch normalisation and ReLU between them.

    - SimCLR (Chen et al. 2020, section 2.1): "a MLP with one hidden layer", z = W2 ReLU(W1 h), the
      hidden one as wide as the embedding, the last one 128 wide; the authors' code normalises after
      both layers: `Projector(d, (d, 128), last_norm=True)`.
    - Barlow Twins (Zbontar et al. 2021, section 2.2): "three linear layers, each with 8192 output
      units. The first two layers of the projector are followed by a batch normalization layer and
      rectified linear units": `Projector(d, (8192, 8192, 8192))`.
    - SwAV (Caron et al. 2020, its code): two layers with bias, 2048 and 128 wide for ResNet-50:
      `Projector(d, (2048, 128), bias=True)`.

    Batch normalisation looks across samples, so a projector belongs into `Task.compare`, which sees
    the whole batch of all devices; the published codes synchronise it between devices for the same.

    Parameters
    ----------
    in_channels
        Length of the embedding.
    widths
        Outputs of each linear layer, the first one first.
    bias
        Whether the linear layers add a constant; before a normalisation it has no effect.
    last_norm
        Whether the last layer is normalised too; a gain is learnt there and no shift, as in SimCLR's code.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], *, bias: bool = False, last_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((in_channels, *widths[:-1])):
            layers += [nn.Linear(before, after, bias=bias), nn.BatchNorm1d(after), nn.ReLU()]
        layers.append(nn.Linear((in_channels, *widths)[-2], widths[-1], bias=bias))
        if last_norm:
            norm = nn.BatchNorm1d(widths[-1])
            norm.bias.requires_grad_(False)
            layers.append(norm)
        self.layers = nn.Sequential(*layers)

    def forward(self, embedding: Tensor) -> Tensor:
        """Project embeddings (samples, in_channels) and normalise over all of them.

        Barlow Twins normalises each view by itself: two calls. SimCLR and SwAV take all views in one.
        Embeddings of another precision, as autocast leaves them, are brought to that of the weights.
        """
        return torch.as_tensor(self.layers(embedding.to(next(self.parameters()).dtype)))
