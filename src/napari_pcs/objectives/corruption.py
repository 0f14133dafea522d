"""Blocks of an image replaced by noise, for a network to fill in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from napari_pcs.objectives.base import ObjectiveConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CorruptionConfig", "corrupted", "masked_blocks"]


class CorruptionConfig(ObjectiveConfig):
    """What is taken from an image before a network sees it."""

    masked_share: float = Field(
        0.3,
        ge=0,
        le=0.9,
        title="Masked share",
        description="Share of the blocks of a patch that are replaced by noise; 0 shows the network the whole patch.",
    )
    block: int = Field(8, ge=2, le=32, title="Block", description="Side of a masked block, in voxels of 1 mm.")
    noise: float = Field(
        0.25,
        ge=0,
        le=1,
        title="Noise",
        description="Standard deviation of the noise in masked blocks, about the mean of the patch; tissue is 0 to 1.",
    )


def corrupted(image: NDArray[np.float32], config: CorruptionConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a copy of an image (channel, x, y[, z]) in [0, 1] with noise in some of its blocks."""
    hidden = masked_blocks(image.shape[1:], config, rng)
    noise = image.mean() + config.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.where(hidden, noise.clip(0, 1), image).astype(np.float32)


def masked_blocks(size: tuple[int, ...], config: CorruptionConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which voxels are hidden: whole blocks of a grid, as many as comes closest to the share."""
    grid = tuple(-(-side // config.block) for side in size)
    count = int(np.prod(grid))
    hidden = np.zeros(count, dtype=bool)
    hidden[rng.permutation(count)[: round(config.masked_share * count)]] = True
    blocks = hidden.reshape(grid)
    for axis in range(len(size)):
        blocks = blocks.repeat(config.block, axis=axis)
    return blocks[tuple(slice(side) for side in size)]
