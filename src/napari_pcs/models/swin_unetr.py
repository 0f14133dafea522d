"""Multi-task Swin-UNETR: MONAI's network with a nested skeleton/PCS output and a class head."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from monai.networks.nets import SwinUNETR
from pydantic import Field
from torch import Tensor

from napari_pcs.models.attention import fuse_attention
from napari_pcs.models.contract import NetworkConfig, PartName, SegmentationOutput, Segmenter
from napari_pcs.models.convolution import quicken_convolutions
from napari_pcs.models.field_of_view import part_norms
from napari_pcs.models.graph import DECODED, FEATURES, IMAGE, Node
from napari_pcs.models.heads import ClassHead
from napari_pcs.models.lean import lean_blocks

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

    encoded = ("full", "half", "quarter", "eighth", "sixteenth", "bottleneck")
    side_multiple = SIDE_MULTIPLE
    low_rank = ("*.attn.qkv", "*.attn.proj", "*.mlp.linear1", "*.mlp.linear2")
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
        part_norms(self.backbone)
        lean_blocks(self.backbone)
        self.class_head = ClassHead(_BOTTLENECK_FACTOR * config.feature_size)

    def nodes(self) -> tuple[Node, ...]:
        """Return the computation; the transformer's outputs, normalised, feed the convolutions of each scale."""
        net = self.backbone
        swin = net.swinViT

        def normed(tokens: Tensor) -> Tensor:
            return torch.as_tensor(swin.proj_out(tokens, net.normalize))

        def joined(x: Tensor, skip: Tensor) -> Tensor:
            """Begin MONAI's last block: what is joined can be let go before the convolutions, where memory peaks."""
            return torch.cat([net.decoder1.transp_conv(x), skip], dim=1)

        stages = [
            Node(
                f"tokens{i}",
                (f"tokens{i - 1}",),
                (f"backbone.swinViT.layers{i}",),
                2 ** (i + 1),
                partial(_stage, swin, i),
            )
            for i in (1, 2, 3, 4)
        ]
        return (
            Node(
                "tokens0", (IMAGE,), ("backbone.swinViT.patch_embed",), 2, lambda x: swin.pos_drop(swin.patch_embed(x))
            ),
            Node("half", ("tokens0",), ("backbone.encoder2",), 2, lambda t: net.encoder2(normed(t))),
            stages[0],
            Node("quarter", ("tokens1",), ("backbone.encoder3",), 4, lambda t: net.encoder3(normed(t))),
            stages[1],
            Node("eighth", ("tokens2",), ("backbone.encoder4",), 8, lambda t: net.encoder4(normed(t))),
            stages[2],
            Node("sixteenth", ("tokens3",), (), 16, normed),
            stages[3],
            Node("bottleneck", ("tokens4",), ("backbone.encoder10",), 32, lambda t: net.encoder10(normed(t))),
            Node("up16", ("bottleneck", "sixteenth"), ("backbone.decoder5",), 16, lambda x, s: net.decoder5(x, s)),
            Node("up8", ("up16", "eighth"), ("backbone.decoder4",), 8, lambda x, s: net.decoder4(x, s)),
            Node("up4", ("up8", "quarter"), ("backbone.decoder3",), 4, lambda x, s: net.decoder3(x, s)),
            Node("up2", ("up4", "half"), ("backbone.decoder2",), 2, lambda x, s: net.decoder2(x, s)),
            Node("full", (IMAGE,), ("backbone.encoder1",), 1, lambda x: net.encoder1(x)),
            Node("joined", ("up2", "full"), ("backbone.decoder1.transp_conv",), 1, joined),
            Node(DECODED, ("joined",), ("backbone.decoder1.conv_block",), 1, lambda x: net.decoder1.conv_block(x)),
            Node(FEATURES, ("bottleneck",), (), 0, self.pool),
        )

    @property
    def embedding_channels(self) -> int:
        """Channels of the bottleneck."""
        return _BOTTLENECK_FACTOR * self.config.feature_size

    @property
    def decoded_channels(self) -> int:
        """Channels at full resolution."""
        return self.config.feature_size

    def segment(self, decoded: Tensor, features: Tensor) -> SegmentationOutput:
        """Apply the output layer."""
        return SegmentationOutput(self.backbone.out(decoded), features)

    def classify(self, features: Tensor, pcs_volume: Tensor) -> Tensor:
        """Return class logits (batch, 3) of whole hemispheres."""
        return self.class_head(features, pcs_volume)  # type: ignore[no-any-return]


def _stage(swin: Any, number: int, tokens: Tensor) -> Tensor:
    return torch.as_tensor(getattr(swin, f"layers{number}")[0](tokens.contiguous()))
