"""Low-rank pairs beside a network's frozen weights while it trains (Hu et al. 2022), by peft.

Names are always full module names: peft takes a bare name for the ending of any, and "proj" would
wrap the convolution that cuts the image into tokens, "out" a dictionary of peft's own.

peft brings transformers, so it is imported only where it is needed.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from napari_pcs.errors import ModelError
from napari_pcs.models.low_rank import Adapter, Places, load_merged, places
from napari_pcs.models.peft_settings import from_peft, to_peft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.models.contract import Network
    from napari_pcs.models.lora_config import LoraConfig

__all__ = [
    "NAME",
    "adapter_of",
    "adapter_state",
    "attach",
    "inject",
    "merge",
    "merged_copy",
    "trained_modules",
]

NAME = "default"
"""What peft calls an adapter that is given no name."""


def inject(network: Network, settings: LoraConfig, name: str = NAME) -> None:
    """Put low-rank pairs beside the encoder's layers, in place, and copies of the heads that train instead of them.

    At first the second weight of each pair is 0, so the output is what it was (with DoRA, within
    rounding). Gradients are on for the pairs and the copies, and for nothing else. A second time with
    the same settings changes nothing but that.

    Parameters
    ----------
    network
        Keeps its class, parts and methods, and whether it is in training mode. A wrapped layer's own
        weight moves to `<layer>.base_layer`, a head's to `<head>.original_module`.
    settings
        Rank, scale and kind of the pairs.
    name
        Of the adapter within the network.

    Raises
    ------
    ModelError
        If the network offers no layers for pairs, or holds another adapter already.
    """
    held = list(_configs(network))
    if not held:
        _inject(network, settings, places(network, convolutions=settings.convolutions), name)
    elif held != [name] or _settings(network, name) != settings:
        msg = (
            f"Network {network.config.architecture}: found the adapter {held[0]} in it, expected none or the same."
            " Merge it first."
        )
        raise ModelError(msg)
    network.requires_grad_(requires_grad=False)
    for module in _own_modules(network, name):
        module.requires_grad_(requires_grad=True)


def attach(network: Network, adapter: Adapter, name: str = NAME) -> None:
    """Put an adapter with its weights into a plain network, in place, not merged; gradients are off.

    Raises
    ------
    ModelError
        If it is of another network.
    """
    from peft import set_peft_model_state_dict

    adapter.fitting(network, name)
    with torch.random.fork_rng(devices=[]):  # random weights that are replaced at once
        _inject(network, adapter.settings, adapter.places, name)
    network.requires_grad_(requires_grad=False)
    set_peft_model_state_dict(network, dict(adapter.state), adapter_name=name)


def merge(network: Network, name: str = NAME) -> None:
    """Merge an adapter into the weights that it is beside, in place: the network is a plain one again.

    See `low_rank.merged_weights`. Gradients are off.

    Raises
    ------
    ModelError
        If the adapter holds numbers that are not finite; the network is then as before the adapter.
    """
    adapter = adapter_of(network, name)
    for key, layer in list(_layers(network)):
        _replace(network, key, layer.get_base_layer())
    for key, head in list(_heads(network)):
        _replace(network, key, head.original_module)
    del network.peft_config
    network.requires_grad_(requires_grad=False)
    load_merged(network, adapter.fitting(network, name))


def merged_copy(network: Network, name: str = NAME) -> Network:
    """Return a plain network with an adapter merged, and leave this one as it is."""
    merged = copy.deepcopy(network)
    merge(merged, name)
    return merged


def adapter_of(network: Network, name: str = NAME) -> Adapter:
    """Return an adapter within a network; its weights are not copies."""
    where = Places(tuple(key for key, _ in _layers(network)), tuple(key for key, _ in _heads(network)))
    return Adapter(_settings(network, name), where, adapter_state(network, name))


def adapter_state(network: Network, name: str = NAME) -> dict[str, Tensor]:
    """Return the weights of an adapter by peft's names, without the adapter's own; see `low_rank.Adapter`.

    They are not copies.
    """
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(network, adapter_name=name, save_embedding_layers=False)
    return {key: tensor.detach() for key, tensor in found.items()}


def trained_modules(network: Network, name: str = NAME) -> list[nn.Module]:
    """Return the wrapped layers and the heads' copies: what is in training mode while an adapter trains.

    Of a wrapped layer only the pair trains; its own weight has neither gradients nor statistics.
    """
    heads = [head.modules_to_save[name] for _, head in _heads(network)]
    return [*(layer for _, layer in _layers(network)), *heads]


def _inject(network: Network, settings: LoraConfig, where: Places, name: str) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(to_peft(settings, where), network, name)
    for _, module in [*_layers(network), *_heads(network)]:
        module.train(mode=network.training)  # peft's new modules are in training mode, and drop out


def _settings(network: Network, name: str) -> LoraConfig:
    convolutions = any(not isinstance(layer.get_base_layer(), nn.Linear) for _, layer in _layers(network))
    return from_peft(_configs(network)[name], convolutions=convolutions)


def _own_modules(network: Network, name: str) -> Iterator[nn.Module]:
    """Yield the modules that hold the weights of an adapter."""
    for _, layer in _layers(network):
        for held in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
            if name in held:
                yield held[name]
    for _, head in _heads(network):
        yield head.modules_to_save[name]


def _layers(network: Network) -> Iterator[tuple[str, Any]]:
    """Yield the wrapped layers by name."""
    from peft.tuners.lora import LoraLayer

    return ((key, module) for key, module in network.named_modules() if isinstance(module, LoraLayer))


def _heads(network: Network) -> Iterator[tuple[str, Any]]:
    """Yield the wrapped heads by name."""
    from peft.utils.other import ModulesToSaveWrapper

    return ((key, module) for key, module in network.named_modules() if isinstance(module, ModulesToSaveWrapper))


def _configs(network: Network) -> dict[str, Any]:
    """Return peft's settings of the adapters in a network, by name."""
    found: dict[str, Any] = vars(network).get("peft_config", {})
    return found


def _replace(network: Network, key: str, module: nn.Module) -> None:
    parent, _, child = key.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
