"""Multi-task Swin-UNETR: MONAI's network with a nested skeleton/PCS output and a class head."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from monai.networks.nets import SwinUNETR
from pydantic import Field
from torch import Tensor

from napari_pcs.models.attention import fuse_attention
from napari_pcs.models.contract import NetworkConfig, PartName, SegmentationOutput, Segmenter
from napari_pcs.models.convolution import quicken_convolutions
from napari_pcs.models.heads import ClassHead

__all__ = ["MultiTaskSwinUNETR", "SwinUNETRConfig"]

_BOTTLENECK_FACTOR = 16
SIDE_MULTIPLE = 32


class SwinUNETRConfig(NetworkConfig):
    """Everything that decides the network's shape."""

    architecture: Literal["swin_unetr"] = "swin_unetr"
    feature_size: Literal[12, 24, 36, 48] = Field(12, title="Feature size", description="Channels at full resolution.")
    window_size: int = Field(
        7,
        ge=2,
        le=7,
        title="Attention window",
        description="Tokens per side; 7 is MONAI's, 4 is three times faster on a CPU.",
    )
    position: bool = Field(
        True,
        title="Position channels",
        description="Adds three input channels that say where in the hemisphere a voxel lies.",
    )
    flash_attention: bool = Field(
        True,
        title="Flash attention",
        description="Fused attention, in training as well: less time and memory; the result is the same.",
    )
    gradient_checkpointing: bool = Field(
        False,
        title="Gradient checkpointing",
        description="Computes the attention blocks once more in the backward pass: less memory, more time.",
    )

    @property
    def in_channels(self) -> int:
        """Tissue, and three position channels where asked for."""
        return 4 if self.position else 1

    @property
    def spatial_dims(self) -> Literal[3]:
        """Volumes."""
        return 3


class MultiTaskSwinUNETR(Segmenter):
    """Swin-UNETR (Hatamizadeh et al. 2022) for the sulcal skeleton, the PCS and the class.

    Inputs have sides that are multiples of 32 voxels.
    """

    parts: ClassVar[dict[PartName, tuple[str, ...]]] = {
        "stem": ("backbone.swinViT.patch_embed",),
        "encoder": (
            *(f"backbone.swinViT.layers{i}" for i in (1, 2, 3, 4)),
            *(f"backbone.encoder{i}" for i in (1, 2, 3, 4, 10)),
        ),
        "decoder": tuple(f"backbone.decoder{i}" for i in (5, 4, 3, 2, 1)),
        "heads": ("backbone.out", "class_head"),
    }

    side_multiple = SIDE_MULTIPLE
    config: SwinUNETRConfig

    def __init__(self, config: SwinUNETRConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = SwinUNETR(
            in_channels=config.in_channels,
            out_channels=2,
            feature_size=config.feature_size,
            window_size=config.window_size,
            use_flash_attention=config.flash_attention,
            use_checkpoint=config.gradient_checkpointing,
        )
        if config.flash_attention:
            fuse_attention(self.backbone)
        quicken_convolutions(self.backbone)
        self.class_head = ClassHead(_BOTTLENECK_FACTOR * config.feature_size)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the encoder's six outputs, from full resolution to the bottleneck.

        Computed without gradients when none of the encoder's weights trains: then nothing is kept for
        them.
        """
        with self._gradients():
            return self._encode(image)

    def _gradients(self) -> torch.set_grad_enabled:
        trains = any(
            p.requires_grad for part in ("stem", "encoder") for _, m in self.modules_of(part) for p in m.parameters()
        )
        return torch.set_grad_enabled(trains and torch.is_grad_enabled())

    def _encode(self, image: Tensor) -> list[Tensor]:
        net = self.backbone
        stages = net.swinViT(image, net.normalize)
        return [
            net.encoder1(image),
            net.encoder2(stages[0]),
            net.encoder3(stages[1]),
            net.encoder4(stages[2]),
            stages[3],
            net.encoder10(stages[4]),
        ]

    @property
    def embedding_channels(self) -> int:
        """Channels of the bottleneck."""
        return _BOTTLENECK_FACTOR * self.config.feature_size

    @property
    def decoded_channels(self) -> int:
        """Channels at full resolution."""
        return self.config.feature_size

    def embed(self, image: Tensor) -> Tensor:
        """Return the bottleneck averaged over the field of view, without computing the skips above it."""
        net = self.backbone
        with self._gradients():
            return self.pool([net.encoder10(net.swinViT(image, net.normalize)[-1])])

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """Return full-resolution features from the encoder's outputs."""
        net = self.backbone
        full, half, quarter, eighth, sixteenth, bottleneck = encoded
        up = net.decoder5(bottleneck, sixteenth)
        up = net.decoder4(up, eighth)
        up = net.decoder3(up, quarter)
        up = net.decoder2(up, half)
        return torch.as_tensor(net.decoder1(up, full))

    def segment(self, decoded: Tensor, features: Tensor) -> SegmentationOutput:
        """Apply the output layer."""
        return SegmentationOutput(self.backbone.out(decoded), features)

    def classify(self, features: Tensor, pcs_volume: Tensor) -> Tensor:
        """Return class logits (batch, 3) of whole hemispheres."""
        return self.class_head(features, pcs_volume)  # type: ignore[no-any-return]
