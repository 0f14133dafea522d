"""SwAV: views of a patch are to be assigned to the same prototypes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_pcs.models.contract import Network
from napari_pcs.objectives.base import Objective
from napari_pcs.objectives.embedding_queue import EmbeddingQueue
from napari_pcs.objectives.projector import Projector
from napari_pcs.objectives.prototypes import Prototypes, perplexity
from napari_pcs.objectives.sinkhorn import sinkhorn
from napari_pcs.objectives.swapped import swapped_prediction
from napari_pcs.objectives.swav_config import SwAVConfig, check_small_crops, check_small_size
from napari_pcs.objectives.task import Comparison, Outcome
from napari_pcs.objectives.views import check_channels, region_for, views_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.data.patch import Patch
    from napari_pcs.objectives.base import ObjectiveConfig
    from napari_pcs.objectives.task import Batch

__all__ = ["SwAV", "SwAVConfig"]

_LARGE = 2
"""Large crops of each patch: those whose assignments are predicted."""


class SwAV(Objective):
    """SwAV (Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments").

    Two large views of each patch are assigned to prototypes, so that all prototypes are used alike;
    every other view predicts the assignment from its own similarities with the prototypes. Networks
    with position channels get zeros there, since all views of a patch lie at the same place.
    """

    name = "swav"
    title = "SwAV"
    config_class = SwAVConfig
    network_class = Network
    spatial_dims = (2, 3)
    trained_parts = ("stem", "encoder")
    compares = True
    config: SwAVConfig
    epoch: Tensor

    def __init__(self, network: Network, config: SwAVConfig) -> None:
        super().__init__(network, config)
        check_channels(network, config.views)
        check_small_crops(config, network)
        hidden, channels = network.embedding_channels, config.projected_channels
        self.projector = Projector(hidden, (hidden, channels), bias=True)
        self.prototypes = Prototypes(channels, config.prototypes)
        self.queue = EmbeddingQueue(_LARGE, config.queue_length, channels) if config.queue_length else None
        # A buffer, so that a resumed run knows whether the queue is in use.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))
        self._newest: Tensor | None = None

    @classmethod
    def region(cls, size: tuple[int, ...], config: ObjectiveConfig) -> tuple[int, ...]:
        """Return how large a patch to draw so that turned views of this size can be cut from it.

        Raises
        ------
        InputError
            If small crops are larger than that, or have other dimensions.
        """
        check_small_size(cast("SwAVConfig", config), size)
        return region_for(size)

    @classmethod
    def sample(
        cls, patch: Patch, size: tuple[int, ...], config: ObjectiveConfig, rng: np.random.Generator
    ) -> dict[str, NDArray[np.generic]]:
        """Return views of a patch: two `large` and, where there are any, `small` (views, channel, x, y[, z])."""
        settings = cast("SwAVConfig", config)
        views, count, small = settings.views, settings.small_crops, settings.small_size
        sample: dict[str, NDArray[np.generic]] = {"large": views_of(patch, size, _LARGE, rng, settings=views)}
        if count and small is not None:
            sample["small"] = views_of(patch, small, count, rng, settings=views, scale=settings.small_scale)
        return sample

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn only
        """Embed all views of each patch, the large ones first: (batch, views, embedding_channels)."""
        views = [batch[kind] for kind in ("large", "small") if kind in batch]
        found = [
            self.network.embed(self.network_image(view.flatten(0, 1))).reshape(*view.shape[:2], -1) for view in views
        ]
        return Outcome(None, torch.cat(found, dim=1))

    def compare(self, embedding: Tensor, turn: str = "main") -> Comparison:  # noqa: ARG002  there is one turn only
        """Assign the large views to prototypes and predict that from all other views."""
        with torch.autocast(embedding.device.type, enabled=False):
            projected = self.projector(embedding.float().flatten(0, 1))
            unit = F.normalize(projected, dim=1).reshape(*embedding.shape[:2], -1)
            scores = self.prototypes(unit)
            loss = swapped_prediction(scores, self._assign(scores), self.config.temperature)
        if self.training and self.queue is not None:
            self._newest = unit[:, :_LARGE].detach().transpose(0, 1)
        return Comparison(loss, {"prototypes_used": perplexity(scores[:, :_LARGE].flatten(0, 1))})

    @torch.no_grad()
    def _assign(self, scores: Tensor) -> Tensor:
        """Return the shares (batch, 2, prototypes) of the large views, each place of a view by itself."""
        shares = []
        for view in range(_LARGE):
            own = everyone = scores[:, view]
            if self.queue is not None and self.queue.full and int(self.epoch) >= self.config.queue_epoch:
                everyone = torch.cat([self.prototypes(self.queue.rows[view]), own])
            found = sinkhorn(everyone, epsilon=self.config.epsilon, iterations=self.config.iterations)
            shares.append(found[-len(own) :])
        return torch.stack(shares, dim=1)

    def before_step(self, epoch: int) -> None:
        """Keep the prototypes as they are in the first epochs, while embeddings mean little.

        Tells the queue which epoch (from 0) it is; its first epoch thus begins with one step without it.
        """
        self.epoch.fill_(epoch)
        if epoch < self.config.frozen_epochs:
            self.prototypes.weight.grad = None

    def after_step(self) -> None:
        """Bring prototypes that moved back onto the unit sphere; the newest embeddings join the queue."""
        # A frozen prototype stays as it is to the last bit, which dividing by a length of 1.0000001 would not do.
        if int(self.epoch) >= self.config.frozen_epochs:
            self.prototypes.normalise()
        if self.queue is not None and self._newest is not None:
            self.queue.push(self._newest)
            self._newest = None
