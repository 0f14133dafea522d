"""SimCLR: two views of a patch are to be more alike than views of different patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from pydantic import Field
from torch import Tensor

from napari_pcs.models.contract import Network
from napari_pcs.objectives.base import Objective, ObjectiveConfig
from napari_pcs.objectives.nt_xent import nt_xent, partner_accuracy
from napari_pcs.objectives.projector import Projector
from napari_pcs.objectives.task import Comparison, Outcome
from napari_pcs.objectives.views import ViewSettings, check_channels, region_for, views_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.data.patch import Patch
    from napari_pcs.objectives.task import Batch

__all__ = ["SimCLR", "SimCLRConfig"]


class SimCLRConfig(ObjectiveConfig):
    """Settings of SimCLR; temperature and projected channels are the published ones for ImageNet."""

    views: ViewSettings = Field(ViewSettings(), title="Views", description="How far two views of a patch may differ.")
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


class SimCLR(Objective):
    """SimCLR (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations").

    The projector is trained and thrown away; the encoder is what is learnt. Networks with position
    channels get zeros there, since two views of a patch lie at the same place.
    """

    name = "simclr"
    title = "SimCLR"
    config_class = SimCLRConfig
    network_class = Network
    spatial_dims = (2, 3)
    trained_parts = ("stem", "encoder")
    compares = True
    config: SimCLRConfig

    def __init__(self, network: Network, config: SimCLRConfig) -> None:
        super().__init__(network, config)
        check_channels(network, config.views)
        hidden = network.embedding_channels
        self.projector = Projector(hidden, (hidden, config.projected_channels), last_norm=True)

    @classmethod
    def region(cls, size: tuple[int, ...], config: ObjectiveConfig) -> tuple[int, ...]:  # noqa: ARG003
        """Return how large a patch to draw so that turned views of this size can be cut from it."""
        return region_for(size)

    @classmethod
    def sample(
        cls, patch: Patch, size: tuple[int, ...], config: ObjectiveConfig, rng: np.random.Generator
    ) -> dict[str, NDArray[np.generic]]:
        """Return two independent `views` (2, channel, x, y[, z]) of a patch."""
        return {"views": views_of(patch, size, 2, rng, settings=cast("SimCLRConfig", config).views)}

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn only
        """Embed both views of each patch: (batch, 2, embedding_channels)."""
        views = batch["views"]
        embedding = self.network.embed(self.network_image(views.flatten(0, 1)))
        return Outcome(None, embedding.reshape(*views.shape[:2], -1))

    def compare(self, embedding: Tensor, turn: str = "main") -> Comparison:  # noqa: ARG002  there is one turn only
        """Project all views and look for partners; tell how often the most similar view is the partner."""
        with torch.autocast(embedding.device.type, enabled=False):
            projected = self.projector(embedding.float().flatten(0, 1)).reshape(*embedding.shape[:2], -1)
        return Comparison(nt_xent(projected, self.config.temperature), {"top1": partner_accuracy(projected)})
