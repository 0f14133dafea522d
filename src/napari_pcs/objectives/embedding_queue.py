"""Embeddings of earlier batches, kept where a batch is too small to tell how samples spread."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["EmbeddingQueue"]


class EmbeddingQueue(nn.Module):
    """The newest embeddings, first in, first out, as buffers: a resumed run goes on with the same.

    Parameters
    ----------
    kinds
        Queues kept side by side, one for each crop of a sample.
    length
        Samples in each.
    channels
        Length of an embedding.
    """

    rows: Tensor
    count: Tensor

    def __init__(self, kinds: int, length: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(kinds, length, channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @property
    def full(self) -> bool:
        """Whether every row is an embedding."""
        return int(self.count) == self.rows.shape[1]

    @torch.no_grad()
    def push(self, embedding: Tensor) -> None:
        """Add embeddings (kinds, samples, channels) and forget the oldest."""
        length = self.rows.shape[1]
        self.rows.copy_(torch.cat([self.rows, embedding.to(self.rows)], dim=1)[:, -length:])
        self.count.copy_((self.count + embedding.shape[1]).clamp(max=length))
