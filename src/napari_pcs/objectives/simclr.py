"""SimCLR: two views of a patch are to be more alike than views of different patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from napari_pcs.objectives.nt_xent import nt_xent, partner_accuracy
from napari_pcs.objectives.projector import Projector
from napari_pcs.objectives.task import Comparison
from napari_pcs.objectives.two_views import TwoViews, TwoViewsConfig

if TYPE_CHECKING:
    from napari_pcs.models.contract import Network

__all__ = ["SimCLR", "SimCLRConfig"]


class SimCLRConfig(TwoViewsConfig):
    """Settings of SimCLR; temperature and projected channels are the published ones for ImageNet."""

    temperature: float = Field(
        0.1,
        ge=0.01,
        le=10,
        title="Temperature",
        description="Of the similarities: the smaller, the more the most similar wrong views count.",
    )
    projected_channels: int = Field(
        128, ge=2, le=8192, title="Projected channels", description="Length of what is compared."
    )


class SimCLR(TwoViews):
    """SimCLR (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations").

    The projector is trained and thrown away; the encoder is what is learnt.
    """

    name = "simclr"
    title = "SimCLR"
    config_class = SimCLRConfig
    config: SimCLRConfig

    def __init__(self, network: Network, config: SimCLRConfig) -> None:
        super().__init__(network, config)
        hidden = network.embedding_channels
        self.projector = Projector(hidden, (hidden, config.projected_channels), last_norm=True)

    def compare(self, embedding: Tensor, turn: str = "main") -> Comparison:  # noqa: ARG002  there is one turn only
        """Project all views and look for partners; tell how often the most similar view is the partner."""
        with torch.autocast(embedding.device.type, enabled=False):
            projected = self.projector(embedding.float().flatten(0, 1)).reshape(*embedding.shape[:2], -1)
        return Comparison(nt_xent(projected, self.config.temperature), {"top1": partner_accuracy(projected)})
