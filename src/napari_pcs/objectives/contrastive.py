"""Reconstruction of two damaged copies of a patch that are to be recognised as the same patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from pydantic import Field
from torch import Tensor

from napari_pcs.objectives.autoencoding import Autoencoding
from napari_pcs.objectives.corruption import CorruptionConfig, corrupted
from napari_pcs.objectives.nt_xent import nt_xent, partner_accuracy
from napari_pcs.objectives.projector import Projector
from napari_pcs.objectives.ssim import ssim_loss
from napari_pcs.objectives.task import Comparison, Outcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.data.patch import Patch
    from napari_pcs.models.contract import Network
    from napari_pcs.objectives.base import ObjectiveConfig
    from napari_pcs.objectives.task import Batch

__all__ = ["Contrastive", "ContrastiveConfig"]


class ContrastiveConfig(CorruptionConfig):
    """Settings of contrastive pre-training; the paper adds the two losses unweighted and gives no temperature."""

    temperature: float = Field(
        0.5,
        ge=0.01,
        le=10,
        title="Temperature",
        description="Of the similarities: the smaller, the more the most similar wrong patches count.",
    )
    reconstruction_weight: float = Field(
        1.0, ge=0, le=100, title="Reconstruction weight", description="Of 1 - SSIM in the loss."
    )
    contrastive_weight: float = Field(
        1.0, ge=0, le=100, title="Contrastive weight", description="Of the contrastive loss in the loss."
    )
    projected_channels: int = Field(
        128, ge=2, le=8192, title="Projected channels", description="Length of what is compared."
    )


class Contrastive(Autoencoding):
    """Contrastive learning (Mamalakis et al., eq. 7 and 8): 1 - SSIM plus NT-Xent.

    The two views of a patch are the same voxels with different blocks of noise. Both are
    reconstructed, and their projected bottlenecks are to be more alike than those of other patches.
    Networks with position channels get zeros there: both views lie at the same place, and a network
    that is told it would recognise the place, not the folds.
    """

    name = "contrastive"
    title = "Contrastive"
    config_class = ContrastiveConfig
    compares = True
    config: ContrastiveConfig

    def __init__(self, network: Network, config: ContrastiveConfig) -> None:
        super().__init__(network, config)
        hidden = network.embedding_channels
        self.projector = Projector(hidden, (hidden, config.projected_channels), last_norm=True)

    @classmethod
    def sample(
        cls,
        patch: Patch,
        size: tuple[int, ...],  # noqa: ARG003  `region` asks for patches of just this size
        config: ObjectiveConfig,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[np.generic]]:
        """Return the patch as `image` and two damaged copies of it, `given` and `other`; no position."""
        settings = cast("ContrastiveConfig", config)
        return {
            "image": patch.image,
            "given": corrupted(patch.image, settings, rng),
            "other": corrupted(patch.image, settings, rng),
        }

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn only
        """Reconstruct both copies; their bottlenecks are the embedding (batch, 2, embedding_channels)."""
        copies = torch.stack([batch["given"], batch["other"]], dim=1)
        image = batch["image"].repeat_interleave(2, dim=0)
        found, encoded = self.reconstruct({"given": copies.flatten(0, 1)})
        loss = ssim_loss(found, image)
        embedding = self.network.pool(encoded[-1]).reshape(*copies.shape[:2], -1)
        figures = {**self.quality(found, image), "loss_rec": loss.detach()}
        return Outcome(self.config.reconstruction_weight * loss, embedding, figures)

    def compare(self, embedding: Tensor, turn: str = "main") -> Comparison:  # noqa: ARG002  there is one turn only
        """Project both copies' bottlenecks and look for partners."""
        with torch.autocast(embedding.device.type, enabled=False):
            projected = self.projector(embedding.float().flatten(0, 1)).reshape(*embedding.shape[:2], -1)
        loss = nt_xent(projected, self.config.temperature)
        figures = {"loss_con": loss.detach(), "top1": partner_accuracy(projected)}
        return Comparison(self.config.contrastive_weight * loss, figures)
