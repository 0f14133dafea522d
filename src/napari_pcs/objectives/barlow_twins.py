"""Barlow Twins: two views of one patch agree in each feature, and no two features say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from napari_pcs.errors import InputError
from napari_pcs.objectives.pictures import Augmentation2D
from napari_pcs.objectives.projector import Projector
from napari_pcs.objectives.task import Comparison
from napari_pcs.objectives.two_views import TwoViews, TwoViewsConfig
from napari_pcs.objectives.views import ViewSettings

if TYPE_CHECKING:
    from napari_pcs.models.contract import Network

__all__ = ["BarlowTwins", "BarlowTwinsConfig", "barlow_twins_loss"]


class BarlowTwinsConfig(TwoViewsConfig):
    """Settings of Barlow Twins; the published projector is three layers of 8192 for batches of 2048."""

    width: int = Field(
        512, ge=2, le=16384, title="Projector width", description="Outputs of each of its layers; 8192 as published."
    )
    layers: int = Field(3, ge=1, le=5, title="Projector layers", description="Linear layers; 3 as published.")
    redundancy: float = Field(
        5e-3,
        ge=0,
        le=1,
        title="Redundancy",
        description="Weight (lambda) of the correlations between features; 0.005 in the paper.",
    )
    scale: float = Field(1.0, gt=0, le=1000, title="Loss scale", description="The loss is multiplied by it.")
    views: ViewSettings = Field(
        ViewSettings(image=Augmentation2D(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)),
        title="Views",
        description="How far two views of one patch may differ.",
    )


def barlow_twins_loss(z_a: Tensor, z_b: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, its part on the diagonal and its part off it.

    Zbontar et al. 2021, eq. 1 and 2, with batch normalisation as in their code: features are
    brought to mean 0 and variance 1 over the batch, C = z_a^T z_b / N, and
    loss = sum_i (1 - C_ii)^2 + weight * sum_i sum_{j != i} C_ij^2. A change of scale and offset of a
    feature changes nothing.

    Parameters
    ----------
    z_a, z_b
        (samples, features): projections of two views, row by row of the same sample.
    weight
        Of what is off the diagonal (lambda).

    Returns
    -------
    tuple
        Scalars; the parts are without weight.

    Raises
    ------
    InputError
        If there is no second sample to correlate with.
    """
    if len(z_a) < 2 or z_a.shape != z_b.shape:
        raise InputError(
            found=f"projections of shapes {tuple(z_a.shape)} and {tuple(z_b.shape)}",
            expected="two of one shape, of at least two samples",
            advice="Make the batch larger.",
        )
    # Squares of thousands of small correlations are lost in half precision.
    with torch.autocast(z_a.device.type, enabled=False):
        a, b = (F.batch_norm(z.float(), None, None, training=True) for z in (z_a, z_b))
        c = a.T @ b / len(a)
        squares = c.square()
        on_diagonal = (1 - c.diagonal()).square().sum()
        off_diagonal = squares.sum() - squares.diagonal().sum()
        return on_diagonal + weight * off_diagonal, on_diagonal, off_diagonal


class BarlowTwins(TwoViews):
    """Barlow Twins (Zbontar et al. 2021, https://github.com/facebookresearch/barlowtwins)."""

    name = "barlow_twins"
    title = "Barlow Twins"
    config_class = BarlowTwinsConfig
    config: BarlowTwinsConfig

    def __init__(self, network: Network, config: BarlowTwinsConfig) -> None:
        super().__init__(network, config)
        self.projector = Projector(network.embedding_channels, (config.width,) * config.layers)

    def compare(self, embedding: Tensor, turn: str = "main") -> Comparison:  # noqa: ARG002
        """Correlate the features of the two views over the whole batch."""
        first, second = (self.projector(view) for view in embedding.unbind(1))
        loss, on_diagonal, off_diagonal = barlow_twins_loss(first, second, self.config.redundancy)
        figures = {"on_diagonal": on_diagonal.detach(), "off_diagonal": off_diagonal.detach()}
        return Comparison(self.config.scale * loss, figures)
