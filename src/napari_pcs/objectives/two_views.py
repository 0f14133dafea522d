"""What objectives that compare two views of every patch share: views, embeddings, parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydantic import Field

from napari_pcs.models.contract import Network
from napari_pcs.objectives.base import Objective, ObjectiveConfig
from napari_pcs.objectives.task import Outcome
from napari_pcs.objectives.views import ViewSettings, check_channels, region_for, views_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.data.patch import Patch
    from napari_pcs.objectives.task import Batch

__all__ = ["TwoViews", "TwoViewsConfig"]


class TwoViewsConfig(ObjectiveConfig):
    """Settings of what compares two views."""

    views: ViewSettings = Field(ViewSettings(), title="Views", description="How far two views of a patch may differ.")


class TwoViews(Objective):
    """Embeds two views of every patch or image; a subclass says how they are compared.

    Networks with position channels get zeros there, since two views of a patch lie at the same place.
    """

    network_class = Network
    spatial_dims = (2, 3)
    trained_parts = ("stem", "encoder")
    compares = True

    def __init__(self, network: Network, config: TwoViewsConfig) -> None:
        """Take a network and train its stem and encoder.

        Raises
        ------
        ModelError
            If the network takes another number of colours than the views have.
        """
        super().__init__(network, config)
        check_channels(network, config.views)

    @classmethod
    def region(cls, size: tuple[int, ...], config: ObjectiveConfig) -> tuple[int, ...]:  # noqa: ARG003
        """Return how large a patch to draw so that turned views of this size can be cut from it."""
        return region_for(size)

    @classmethod
    def sample(
        cls, patch: Patch, size: tuple[int, ...], config: ObjectiveConfig, rng: np.random.Generator
    ) -> dict[str, NDArray[np.generic]]:
        """Return two independent `views` (2, channel, x, y[, z]) of a patch."""
        return {"views": views_of(patch, size, 2, rng, settings=cast("TwoViewsConfig", config).views)}

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn only
        """Embed both views of each patch: (batch, 2, embedding_channels)."""
        views = batch["views"]
        embedding = self.network.embed(self.network_image(views.flatten(0, 1)))
        return Outcome(None, embedding.reshape(*views.shape[:2], -1))
