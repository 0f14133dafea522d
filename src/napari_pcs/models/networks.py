"""All networks by their configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter

from napari_pcs.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from napari_pcs.models.resnet import ResNet18, ResNetConfig
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig

if TYPE_CHECKING:
    from napari_pcs.models.contract import Network, NetworkConfig

__all__ = ["AnyNetworkConfig", "build_network", "parse_network_config"]

AnyNetworkConfig = Annotated[
    SwinUNETRConfig  # one network a line
    | ResNetConfig
    | DiffusionUNetConfig,
    Field(discriminator="architecture"),
]
"""Any network's configuration, told apart by `architecture`."""

_ANY: TypeAdapter[AnyNetworkConfig] = TypeAdapter(AnyNetworkConfig)


def parse_network_config(text: str | bytes) -> NetworkConfig:
    """Read a configuration from JSON; its `architecture` says of which network.

    Raises
    ------
    ValidationError
        If it is of no known network.
    """
    return _ANY.validate_json(text)


def build_network(config: NetworkConfig) -> Network:
    """Build a network with random weights.

    Raises
    ------
    TypeError
        If the configuration is of no known network.
    """
    match config:
        case SwinUNETRConfig():
            return MultiTaskSwinUNETR(config)
        case ResNetConfig():
            return ResNet18(config)
        case DiffusionUNetConfig():
            return DiffusionUNet(config)
    msg = f"No network has the configuration {type(config).__name__}."
    raise TypeError(msg)
