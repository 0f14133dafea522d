"""What every network of napari-pcs promises: named parts, an embedding, and for segmenters a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from napari_pcs.models.graph import DECODED, FEATURES, IMAGE, Node, evaluate
from napari_pcs.models.parts import PARTS, PartName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["PARTS", "Network", "NetworkConfig", "PartName", "SegmentationOutput", "Segmenter"]


class NetworkConfig(BaseModel, ABC):
    """Everything that decides a network's shape; `architecture` says which network it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels of the image: tissue or colour, then three of position where the network has them."""

    @property
    @abstractmethod
    def spatial_dims(self) -> Literal[2, 3]:
        """Whether the network looks at slices or at volumes."""

    @property
    def image_channels(self) -> int:
        """Channels of the image without those of position."""
        return self.in_channels - (3 if getattr(self, "position", False) else 0)


class SegmentationOutput(NamedTuple):
    """What a segmenter returns for a batch.

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
    """A network whose modules are grouped into named parts.

    Strategies, checkpoints and pre-training speak of parts only, never of layers. A part may be
    empty: a classifier has no decoder.
    """

    parts: ClassVar[Mapping[PartName, tuple[str, ...]]]
    """Module names of each part, from the input to the output; every weight is in exactly one."""
    config: NetworkConfig
    side_multiple: ClassVar[int] = 1
    """Sides of the input are multiples of this many voxels."""

    @property
    @abstractmethod
    def embedding_channels(self) -> int:
        """Length of the embedding of an image."""

    @property
    def sees_position(self) -> bool:
        """Whether three channels of the input say where a voxel lies."""
        return bool(getattr(self.config, "position", False))

    @abstractmethod
    def embed(self, image: Tensor) -> Tensor:
        """Return encoder features (batch, embedding_channels) averaged over the field of view.

        Parameters
        ----------
        image
            (batch, config.in_channels, x, y[, z]).
        """

    def modules_of(self, part: PartName) -> Iterator[tuple[str, nn.Module]]:
        """Yield the named modules of one part, from the input to the output."""
        for name in self.parts[part]:
            yield name, self.get_submodule(name)


class Segmenter(Network):
    """A network with a full-resolution decoder, that labels skeleton and PCS and says the class."""

    bytes_per_voxel_and_channel: ClassVar[int] = 60
    """Peak working memory of one pass without gradients (float32); this is Swin-UNETR's, on 96 x 192 x 128 voxels."""

    @property
    @abstractmethod
    def decoded_channels(self) -> int:
        """Channels of the decoder's full-resolution features."""

    def pass_bytes(self, voxels: int) -> int:
        """Return about how many bytes one pass over so many voxels needs without gradients (float32)."""
        return voxels * self.decoded_channels * self.bytes_per_voxel_and_channel

    encoded: tuple[str, ...]
    """Names of the values that the decoder reads, from full resolution to the bottleneck."""

    @abstractmethod
    def nodes(self) -> tuple[Node, ...]:
        """Return the computation from the image to what the heads read, each piece after its inputs.

        The last two are `graph.DECODED` (batch, decoded_channels, x, y, z) and `graph.FEATURES`
        (batch, channels). Together they use every weight of stem, encoder and decoder.
        """

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the encoder's outputs, from full resolution to the bottleneck."""
        values = evaluate(self.nodes(), {IMAGE: image}, self.encoded)
        return [values[name] for name in self.encoded]

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """Return features (batch, decoded_channels, x, y, z) that a 1 x 1 x 1 head reads."""
        known = dict(zip(self.encoded, encoded, strict=True))
        return evaluate(self.nodes(), known, (DECODED,))[DECODED]

    def embed(self, image: Tensor) -> Tensor:
        """Return encoder features averaged over the field of view."""
        return evaluate(self.nodes(), {IMAGE: image}, (FEATURES,))[FEATURES]

    def forward(self, image: Tensor) -> SegmentationOutput:
        """Segment a batch (batch, channels, x, y, z)."""
        values = evaluate(self.nodes(), {IMAGE: image}, (DECODED, FEATURES))
        return self.segment(values[DECODED], values[FEATURES])

    @abstractmethod
    def segment(self, decoded: Tensor, features: Tensor) -> SegmentationOutput:
        """Apply the segmentation head to decoded features; pass the pooled features on."""

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

    @staticmethod
    def pool(bottleneck: Tensor) -> Tensor:
        """Return the bottleneck averaged over the field of view: the embedding."""
        return bottleneck.mean(dim=tuple(range(2, bottleneck.ndim)))
