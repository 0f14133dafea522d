"""What every network of napari-pcs promises: named parts and two outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Network", "PartName", "SegmentationOutput"]

PartName = Literal["stem", "encoder", "decoder", "heads"]


class SegmentationOutput(NamedTuple):
    """What a network returns for a batch.

    Attributes
    ----------
    logits
        (batch, 2, x, y, z): logit of *skeleton*, and of *PCS given skeleton*.
    features
        (batch, channels): encoder features averaged over the field of view, for the class head.
    """

    logits: Tensor
    features: Tensor


class Network(nn.Module, ABC):
    """A segmentation network with a class head, whose modules are grouped into named parts.

    Strategies, checkpoints and pre-training speak of parts only, never of layers.
    """

    parts: ClassVar[dict[PartName, tuple[str, ...]]]
    """Module names of each part, from the input to the output."""

    @abstractmethod
    def forward(self, image: Tensor) -> SegmentationOutput:
        """Segment a batch (batch, channels, x, y, z)."""

    @abstractmethod
    def classify(self, features: Tensor, pcs_volume: Tensor) -> Tensor:
        """Return class logits (batch, 3) of whole hemispheres.

        Parameters
        ----------
        features
            (batch, channels): mean over the whole hemisphere of `SegmentationOutput.features`.
        pcs_volume
            (batch,): sum of the PCS probability over the hemisphere, in mm3.
        """

    def modules_of(self, part: PartName) -> Iterator[tuple[str, nn.Module]]:
        """Yield the named modules of one part, from the input to the output."""
        for name in self.parts[part]:
            yield name, self.get_submodule(name)
