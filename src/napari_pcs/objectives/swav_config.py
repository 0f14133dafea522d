"""Settings of SwAV, and the small crops that a network can take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from napari_pcs.errors import InputError, ModelError
from napari_pcs.objectives.base import ObjectiveConfig
from napari_pcs.objectives.views import ViewSettings

if TYPE_CHECKING:
    from napari_pcs.models.contract import Network

__all__ = ["SwAVConfig", "check_small_crops", "check_small_size"]


class SwAVConfig(ObjectiveConfig):
    """Settings of SwAV; temperature, epsilon, iterations and head are the published ones (Caron et al. 2020)."""

    views: ViewSettings = Field(ViewSettings(), title="Views", description="How far views of a patch may differ.")
    small_crops: int = Field(
        0, ge=0, le=16, title="Small crops", description="Smaller views of each patch beside the two large ones."
    )
    small_size: tuple[int, ...] | None = Field(
        None,
        min_length=2,
        max_length=3,
        title="Small size",
        description="Voxels of 1 mm, or pixels, per side of a small crop; in 3-D a smaller field of view.",
    )
    small_scale: tuple[float, float] = Field(
        (0.05, 0.14), title="Small scale", description="Share of an image's area in a small crop; 2-D only."
    )
    prototypes: int = Field(
        100, ge=2, le=30_000, title="Prototypes", description="Published: 3,000 for ImageNet's 1,000 classes."
    )
    temperature: float = Field(
        0.1, ge=0.01, le=10, title="Temperature", description="Of the predictions: the smaller, the sharper."
    )
    epsilon: float = Field(
        0.05, ge=1e-3, le=1, title="Epsilon", description="Smoothness of the assignments: the smaller, the sharper."
    )
    iterations: int = Field(
        3, ge=1, le=100, title="Iterations", description="Of Sinkhorn-Knopp, which evens out the prototypes' use."
    )
    frozen_epochs: int = Field(
        1, ge=0, le=1000, title="Frozen epochs", description="First epochs in which the prototypes stay as they are."
    )
    queue_length: int = Field(
        0,
        ge=0,
        le=100_000,
        title="Queue",
        description="Samples of earlier batches that join in the assignment; 0: none. For batches smaller than the"
        " number of prototypes.",
    )
    queue_epoch: int = Field(
        15, ge=0, le=100_000, title="Queue's first epoch", description="Epochs, before the queue is used."
    )
    projected_channels: int = Field(
        128, ge=2, le=8192, title="Projected channels", description="Length of an embedding and of a prototype."
    )

    @model_validator(mode="after")
    def _small_crops_have_a_size(self) -> Self:
        if self.small_crops and self.small_size is None:
            msg = f"found {self.small_crops} small crops without a size, expected small_size with its sides"
            raise ValueError(msg)
        low, high = self.small_scale
        if not 0 < low <= high <= 1:
            msg = f"found a small scale of {low:g} to {high:g}, expected two shares of the area in ascending order"
            raise ValueError(msg)
        return self


def check_small_size(config: SwAVConfig, size: tuple[int, ...]) -> None:
    """Refuse small crops that are larger than the large ones, or have other dimensions.

    Raises
    ------
    InputError
        If so.
    """
    small = config.small_size if config.small_crops else None
    if small is not None and (len(small) != len(size) or any(a > b for a, b in zip(small, size, strict=True))):
        raise InputError(
            found=f"small crops of {_sides(small)} in patches of {_sides(size)}",
            expected="small crops that are no larger than the patch",
            advice="Change small_size or the patch.",
        )


def check_small_crops(config: SwAVConfig, network: Network) -> None:
    """Refuse small crops that a network cannot take.

    A network that halves a side down to one voxel cannot normalise a crop of a single voxel there, so
    one side has to be longer than the shortest possible.

    Raises
    ------
    ModelError
        If so.
    """
    small, step = config.small_size if config.small_crops else None, network.side_multiple
    if small is None:
        return
    fits = len(small) == network.config.spatial_dims and not any(side % step for side in small)
    if not fits or (step > 1 and max(small) == step):
        least = f" with one of at least {2 * step}" if step > 1 else ""
        msg = (
            f"SwAV: found small crops of {_sides(small)}, expected {network.config.spatial_dims} sides that are"
            f" multiples of {step}{least}, which the network {network.config.architecture} takes. Change small_size."
        )
        raise ModelError(msg)


def _sides(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
