"""A patch of a hemisphere, or one slice, as a reader draws it and an objective takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Patch", "PatchSource"]


@dataclass(frozen=True, eq=False)
class Patch:
    """A piece of one hemisphere on the network's grid, or one 2-D image.

    Attributes
    ----------
    image
        (channel, x, y, z) float32 in [0, 1]: tissue (0 fluid, 0.5 grey, 1 white) of a left, or
        mirrored right, hemisphere at 1 mm; or (channel, height, width) colours.
    position
        (3, x, y, z) float32: `NetworkGrid.position` of these voxels; None for 2-D images.
    source
        Name of the hemisphere or file it comes from.
    """

    image: NDArray[np.float32]
    position: NDArray[np.float32] | None
    source: str


class PatchSource(Protocol):
    """Many hemispheres or images, of which a few voxels are in memory at a time."""

    @property
    def spatial_dims(self) -> int:
        """2 for images, 3 for hemispheres."""

    @property
    def channels(self) -> int:
        """Channels of `Patch.image`."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each hemisphere or image."""

    @property
    def people(self) -> Sequence[str]:
        """Whose each one is: a split never parts what is one person's."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences that the user should know: mixed spacing, too few people."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the files are (names, sizes), for the record."""

    def draw(self, index: int, size: tuple[int, ...], rng: np.random.Generator) -> Patch:
        """Draw one patch of this size (x, y, z), or (height, width), at a place that `rng` decides.

        Raises
        ------
        InputError
            If the file cannot be read or is not what it should be.
        """
