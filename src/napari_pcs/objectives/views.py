"""Several random views of one patch: what objectives that compare views are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from napari_pcs.data.augment import Augmentation3D, augment
from napari_pcs.errors import ModelError
from napari_pcs.objectives.pictures import Augmentation2D, augment_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.data.patch import Patch
    from napari_pcs.models.contract import Network

__all__ = ["ViewSettings", "check_channels", "region_for", "views_of"]

_MARGIN = 8
"""A patch is larger than its views by a quarter, in steps of this many voxels."""


class ViewSettings(BaseModel):
    """How far views of one patch may differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume: Augmentation3D = Field(Augmentation3D(), title="3-D views", description="Of tissue maps.")
    image: Augmentation2D = Field(Augmentation2D(), title="2-D views", description="Of images and slices.")


def region_for(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return how large a patch to draw for views of this size.

    In 3-D each side is a quarter longer, so that turned and shifted views show tissue up to their
    corners; in 2-D a source gives the whole image whatever it is asked for.
    """
    if len(size) == 2:
        return size
    return tuple(-(-5 * side // (4 * _MARGIN)) * _MARGIN for side in size)


def views_of(
    patch: Patch,
    size: tuple[int, ...],
    count: int,
    rng: np.random.Generator,
    *,
    settings: ViewSettings,
    scale: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Return independent random views of one patch.

    Parameters
    ----------
    patch
        3-D: no side shorter than the view's (`region_for`); 2-D: an image of any size.
    size
        Voxels (x, y, z), or pixels (height, width), of a view. A 3-D view smaller than the patch
        is a smaller field of view at the same scale; a 2-D one is a crop resized.
    count
        How many.
    rng
        Decides everything.
    settings
        How far views differ.
    scale
        2-D: smallest and largest share of the image's area in a view, instead of the settings';
        for small crops beside large ones. 3-D views are never resized, so there it decides nothing.

    Returns
    -------
    NDArray
        (count, channel, *size) float32. 3-D: in [0, 1]; 2-D: normalised by ImageNet's mean and
        deviation, with as many channels as `settings.image.channels`.

    Raises
    ------
    InputError
        If the patch cannot give such views.
    """
    if len(size) == 2:
        return np.stack([augment_picture(patch.image, size, rng, settings.image, scale) for _ in range(count)])
    return np.stack([augment(patch.image, size, rng, settings.volume) for _ in range(count)])


def check_channels(network: Network, settings: ViewSettings) -> None:
    """Refuse 2-D views with another number of colours than the network has inputs.

    Raises
    ------
    ModelError
        If they differ.
    """
    wanted = network.config.image_channels
    if network.config.spatial_dims == 2 and settings.image.channels != wanted:
        msg = (
            f"Views: found {settings.image.channels} colours in the settings, expected {wanted}, which the network"
            f" {network.config.architecture} takes. Set the objective's views.image.channels to {wanted}."
        )
        raise ModelError(msg)
