"""Diffusion U-Net: MONAI's denoiser, whose way down and up is reused to label skeleton and PCS."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from pydantic import Field, model_validator
from torch import Tensor, nn

from napari_pcs.errors import InputError
from napari_pcs.models.contract import NetworkConfig, PartName, SegmentationOutput, Segmenter
from napari_pcs.models.denoiser_nodes import BOTTLENECK, ENTRY, MIDDLE, Blocks, Told, way_down, way_up
from napari_pcs.models.field_of_view import part_norms
from napari_pcs.models.graph import DECODED, FEATURES, IMAGE, Node, evaluate
from napari_pcs.models.heads import ClassHead

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["CONDITION_TOKENS", "DiffusionUNet", "DiffusionUNetConfig", "from_diffusion_range", "to_diffusion_range"]

CONDITION_TOKENS = 3
"""Tokens of a condition: attention to a single one would give all voxels the same, whatever they ask for."""
_FLOAT_BYTES = 4
_SCORES_AT_A_TIME = 2


def to_diffusion_range(image: Tensor) -> Tensor:
    """Bring [0, 1] to [-1, 1], so that the forward process ends in noise of mean 0 (Ho et al. 2020, section 3.3)."""
    return 2 * image - 1


def from_diffusion_range(image: Tensor) -> Tensor:
    """Bring [-1, 1] to [0, 1]; the inverse of `to_diffusion_range`."""
    return (image + 1) / 2


class DiffusionUNetConfig(NetworkConfig):
    """Everything that decides the network's shape; the defaults are the published DD-UNET."""

    architecture: Literal["diffusion_unet"] = "diffusion_unet"
    channels: tuple[int, int, int] = Field(
        (32, 32, 64), title="Channels", description="Of each level, from full resolution down; multiples of the groups."
    )
    attention: tuple[bool, bool, bool] = Field(
        (False, False, True), title="Attention", description="Which levels attend; the bottleneck always does."
    )
    head_channels: int = Field(
        64, ge=4, le=512, title="Head channels", description="Of each attention head; divides the channels there."
    )
    residual_blocks: int = Field(2, ge=1, le=8, title="Residual blocks", description="Of each level on the way down.")
    groups: int = Field(
        8,
        ge=1,
        le=256,
        title="Groups",
        description="Of channels that are normalised together; with a channel each, the time step is normalised away.",
    )
    cross_attention_dim: int | None = Field(
        32, ge=1, le=1024, title="Cross-attention", description="Channels of a condition; without one if left out."
    )
    position: bool = Field(
        False,
        title="Position channels",
        description="Adds three input channels that say where in the hemisphere a voxel lies.",
    )
    flash_attention: bool = Field(
        True,
        title="Flash attention",
        description="Fused attention: its memory grows with the voxels, not with their square; the result is the same.",
    )
    gradient_checkpointing: bool = Field(
        False,
        title="Gradient checkpointing",
        description="Computes every block once more in the backward pass: less memory, more time.",
    )

    @model_validator(mode="after")
    def _channels_fit(self) -> Self:
        for channels in self.channels:
            if channels < 1 or channels % self.groups:
                msg = f"channels: found {channels}, expected multiples of the {self.groups} groups"
                raise ValueError(msg)
        attending = [c for c, attends in zip(self.channels, (*self.attention[:2], True), strict=True) if attends]
        for channels in attending:
            if channels % self.head_channels:
                msg = f"head_channels: found {self.head_channels}, expected a divisor of {channels} channels"
                raise ValueError(msg)
        return self

    @property
    def in_channels(self) -> int:
        """Tissue, and three position channels where asked for."""
        return 4 if self.position else 1

    @property
    def spatial_dims(self) -> Literal[3]:
        """Volumes."""
        return 3


class DiffusionUNet(Segmenter):
    """Denoiser of Ho et al. (2020) as MONAI builds it, with heads for skeleton, PCS and class.

    `denoise` is MONAI's network. To segment, `encode` and `decode` run the same weights on the
    clean image at time step 0 (Baranchuk et al. 2022 read labels off a denoiser's decoder alike).

    What a head reads are the normalised features before MONAI's last convolution, and the noise
    that it makes of them. So MONAI's output block is the end of the decoder, and whatever is
    learnt, each weight of the decoder takes part in it; the heads hold only what nothing but
    labels can train.
    """

    parts: ClassVar[dict[PartName, tuple[str, ...]]] = {
        "stem": ("backbone.conv_in", "backbone.time_embed", "no_condition"),
        "encoder": (*(f"backbone.down_blocks.{i}" for i in range(3)), "backbone.middle_block"),
        "decoder": (*(f"backbone.up_blocks.{i}" for i in range(3)), "backbone.out"),
        "heads": ("segmentation_head", "class_head"),
    }
    side_multiple = 4
    low_rank = ("*.to_q", "*.to_k", "*.to_v", "*.out_proj", "*.ff.linear1", "*.ff.linear2")
    bytes_per_voxel_and_channel = 45  # 41 and 42 were measured on 64 and 96 voxels a side, with fused attention
    config: DiffusionUNetConfig

    def __init__(self, config: DiffusionUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=config.in_channels,
            out_channels=config.image_channels,
            num_res_blocks=config.residual_blocks,
            channels=config.channels,
            attention_levels=config.attention,
            norm_num_groups=config.groups,
            num_head_channels=config.head_channels,
            with_conditioning=config.cross_attention_dim is not None,
            cross_attention_dim=config.cross_attention_dim,
            use_flash_attention=config.flash_attention,
        )
        part_norms(self.backbone)
        self.no_condition: nn.Module = (
            nn.Identity()
            if config.cross_attention_dim is None
            else nn.Embedding(CONDITION_TOKENS, config.cross_attention_dim)
        )
        self.segmentation_head = nn.Conv3d(self.decoded_channels, 2, kernel_size=1)
        self.class_head = ClassHead(config.channels[-1])
        names = [node.name for node in self.nodes()]
        self.encoded = (*names[: names.index(MIDDLE)], BOTTLENECK)

    @property
    def embedding_channels(self) -> int:
        """Channels of the bottleneck."""
        return self.config.channels[-1]

    @property
    def decoded_channels(self) -> int:
        """Channels at full resolution: features, and the noise."""
        return self.config.channels[0] + self.config.image_channels

    def pass_bytes(self, voxels: int) -> int:
        """Return about how many bytes one pass without gradients needs: attention that is not fused adds its scores."""
        if self.config.flash_attention:
            return super().pass_bytes(voxels)
        levels = [*(i for i, attends in enumerate(self.config.attention) if attends), len(self.config.channels) - 1]
        scores: int = max(
            (voxels // 8**i) ** 2 * (self.config.channels[i] // self.config.head_channels) for i in levels
        )
        return super().pass_bytes(voxels) + _SCORES_AT_A_TIME * _FLOAT_BYTES * scores

    def unconditioned(self, batch: int) -> Tensor | None:
        """Return the learnt tokens (batch, tokens, channels) that say that there is no condition.

        None for a network that takes no conditions.
        """
        if isinstance(self.no_condition, nn.Embedding):
            return self.no_condition.weight.expand(batch, -1, -1)
        return None

    def denoise(self, noisy: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        """Estimate the noise (batch, image_channels, x, y, z) in an image.

        Parameters
        ----------
        noisy
            (batch, config.in_channels, x, y, z): the noisy image, about [-1, 1], then position.
        timesteps
            (batch,) whole numbers: how noisy each one is.
        condition
            (batch, tokens, config.cross_attention_dim); the learnt "none" if left out.

        Raises
        ------
        InputError
            If a side is no multiple of `side_multiple`.
        """
        _require_sides(noisy, self.side_multiple)
        told = Told(
            self._time(timesteps, noisy.dtype), self.unconditioned(len(noisy)) if condition is None else condition
        )
        nodes = self._nodes(lambda _: told)
        ((last,),) = (node.inputs for node in nodes if node.name == DECODED)
        values = evaluate(nodes, {ENTRY: self.backbone.conv_in(noisy)}, (last,))
        return torch.as_tensor(self.backbone.out(values[last]))

    def nodes(self) -> tuple[Node, ...]:
        """Return the computation on a clean image in [0, 1], then position: the denoiser's at time step 0."""
        return self._nodes(self._told_nothing)

    def segment(self, decoded: Tensor, features: Tensor) -> SegmentationOutput:
        """Apply the output layer."""
        return SegmentationOutput(self.segmentation_head(decoded), features)

    def classify(self, features: Tensor, pcs_volume: Tensor) -> Tensor:
        """Return class logits (batch, 3) of whole hemispheres."""
        return self.class_head(features, pcs_volume)  # type: ignore[no-any-return]

    def _nodes(self, told: Callable[[Tensor], Told]) -> tuple[Node, ...]:
        again = self.config.gradient_checkpointing
        blocks = Blocks(self.backbone, "backbone.", told, ("backbone.time_embed", "no_condition"), again)
        down = list(way_down(blocks))
        up = list(way_up(blocks, [ENTRY, *(node.name for node in down)]))
        return (
            Node(ENTRY, (IMAGE,), ("backbone.conv_in",), 1, self._enter),
            *down,
            *up,
            Node(DECODED, (up[-1].name,), ("backbone.out",), 1, self._leave),
            Node(FEATURES, (BOTTLENECK,), (), 0, self.pool),
        )

    def _enter(self, image: Tensor) -> Tensor:
        _require_sides(image, self.side_multiple)
        n = self.config.image_channels
        return torch.as_tensor(
            self.backbone.conv_in(torch.cat([to_diffusion_range(image[:, :n]), image[:, n:]], dim=1))
        )

    def _leave(self, up: Tensor) -> Tensor:
        norm, nonlinearity, convolution = self.backbone.out
        features = nonlinearity(norm(up))
        return torch.cat([features, convolution(features)], dim=1)

    def _told_nothing(self, like: Tensor) -> Told:
        start = torch.zeros(len(like), dtype=torch.long, device=like.device)
        return Told(self._time(start, like.dtype), self.unconditioned(len(like)))

    def _time(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        embedding = get_timestep_embedding(timesteps, self.config.channels[0])
        return torch.as_tensor(self.backbone.time_embed(embedding.to(dtype)))


def _require_sides(image: Tensor, multiple: int) -> None:
    sides = tuple(image.shape[2:])
    if any(side % multiple for side in sides):
        raise InputError(
            found=f"an image of {' x '.join(map(str, sides))} voxels",
            expected=f"sides that are multiples of {multiple}",
            advice="Choose such a patch, or pad the image with zeros.",
        )
