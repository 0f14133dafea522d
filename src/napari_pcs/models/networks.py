"""All networks by their configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from napari_pcs.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig

if TYPE_CHECKING:
    from napari_pcs.models.contract import Network, NetworkConfig

__all__ = ["AnyNetworkConfig", "build_network", "parse_network_config"]

AnyNetworkConfig = SwinUNETRConfig | DiffusionUNetConfig


def parse_network_config(text: str | bytes) -> NetworkConfig:
    """Read a configuration from JSON; its `architecture` says of which network.

    Raises
    ------
    ValidationError
        If it is of no known network.
    """
    return TypeAdapter(AnyNetworkConfig).validate_json(text)


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
        case DiffusionUNetConfig():
            return DiffusionUNet(config)
    msg = f"No network has the configuration {type(config).__name__}."
    raise TypeError(msg)
