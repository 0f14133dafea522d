"""ResNet-18 for images and for hemispheres, with the layer names that published weights have."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from monai.networks.nets import resnet18
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn

from napari_pcs.errors import ModelError
from napari_pcs.models.batch_norm import share_batch_norm
from napari_pcs.models.contract import Network, NetworkConfig, PartName

__all__ = ["ResNet18", "ResNetConfig"]

_CHANNELS = 512


class ResNetConfig(NetworkConfig):
    """Everything that decides the network's shape."""

    architecture: Literal["resnet18"] = "resnet18"
    dimensions: Literal[2, 3] = Field(
        2,
        title="Dimensions",
        description="2: images; 3: hemispheres.",
        validation_alias=AliasChoices("dimensions", "spatial_dims"),
    )
    colours: Literal[1, 3] = Field(
        3, title="Colours", description="Channels of an image; a hemisphere has one of tissue, whatever this says."
    )
    position: bool = Field(
        False,
        title="Position channels",
        description="Adds three input channels that say where in the hemisphere a voxel lies; not for images.",
    )
    classes: int = Field(0, ge=0, le=10_000, title="Classes", description="That the head tells apart; 0: no head.")

    @model_validator(mode="after")
    def _position_is_of_hemispheres(self) -> ResNetConfig:
        if self.position and self.dimensions == 2:
            msg = "found position channels for 2-D images, expected them for hemispheres (dimensions 3) only"
            raise ValueError(msg)
        return self

    @property
    def spatial_dims(self) -> Literal[2, 3]:
        """Images or volumes."""
        return self.dimensions

    @property
    def in_channels(self) -> int:
        """Colours; or tissue, and three position channels where asked for."""
        return self.colours if self.dimensions == 2 else 1 + 3 * self.position


class ResNet18(Network):
    """ResNet-18 (He et al. 2016, table 1) with an optional class head.

    In 2-D its weights have torchvision's names and shapes. Batch normalisation looks at the batch of
    all processes.
    """

    parts: ClassVar[dict[PartName, tuple[str, ...]]] = {
        "stem": ("conv1", "bn1"),
        "encoder": ("layer1", "layer2", "layer3", "layer4"),
        "decoder": (),
        "heads": ("fc",),
    }
    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        net = resnet18(
            spatial_dims=config.spatial_dims,
            n_input_channels=config.in_channels,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        self.conv1, self.bn1, self.act, self.maxpool = net.conv1, net.bn1, net.act, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.fc = nn.Linear(_CHANNELS, config.classes) if config.classes else nn.Identity()
        share_batch_norm(self)

    @property
    def embedding_channels(self) -> int:
        """Channels of the last block."""
        return _CHANNELS

    def embed(self, image: Tensor) -> Tensor:
        """Return the last block's features (batch, 512), averaged over the field of view."""
        found = self.maxpool(self.act(self.bn1(self.conv1(image))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            found = layer(found)
        return torch.as_tensor(found.flatten(2).mean(dim=2))

    def forward(self, image: Tensor) -> Tensor:
        """Return class logits (batch, classes).

        Raises
        ------
        ModelError
            If the network was built without classes.
        """
        if not self.config.classes:
            msg = "Network resnet18: found no class head, expected one. Build it with the number of classes."
            raise ModelError(msg)
        return torch.as_tensor(self.fc(self.embed(image)))
