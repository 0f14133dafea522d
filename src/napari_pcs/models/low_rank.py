"""Low-rank adapters as they are kept: where they change a network, by how much, and merged into it.

Without peft: a saved adapter is a few matrices, and what becomes of the weights is one product.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from napari_pcs.errors import ModelError
from napari_pcs.models.matching import Shapes, describe_mismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_pcs.models.contract import Network
    from napari_pcs.models.lora_config import LoraConfig

__all__ = ["Adapter", "Places", "load_merged", "merged_weights", "places"]


class Places(NamedTuple):
    """Where an adapter changes a network, by full module names.

    Attributes
    ----------
    pairs
        Linear layers and convolutions that get a low-rank pair.
    heads
        Modules that are trained in full, as copies.
    """

    pairs: tuple[str, ...]
    heads: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Adapter:
    """What one tuning has changed.

    Attributes
    ----------
    settings
        Rank, scale and kind of the pairs.
    places
        Where they are.
    state
        Weights by peft's names: `<layer>.lora_A.weight` (rank, in[, kernel]), `<layer>.lora_B.weight`
        (out, rank[, 1, 1, 1]), with DoRA `<layer>.lora_magnitude_vector`, and the heads' by their own.
    """

    settings: LoraConfig
    places: Places
    state: Mapping[str, Tensor]

    def fitting(self, network: Network, model: str) -> Adapter:
        """Return the adapter if it is one of a plain network.

        Parameters
        ----------
        network
            With the weights of the adapter's base.
        model
            Name of the adapter, for the message.

        Raises
        ------
        ModelError
            If it is of another network, or holds numbers that are not finite.
        """
        problem = _misfit(network, self)
        if problem:
            msg = f"Model {model}: found an adapter with {problem}, expected one of its base. Tune or copy it again."
            raise ModelError(msg)
        return self


def places(network: Network, *, convolutions: bool = False) -> Places:
    """Return where pairs go: the encoder's linear layers that the network offers, and maybe its convolutions.

    Raises
    ------
    ModelError
        If there are none.
    """
    inside = tuple(f"{name}." for name in network.parts["encoder"])
    pairs = tuple(
        name
        for name, module in network.named_modules()
        if name.startswith(inside)
        and (
            (convolutions and isinstance(module, nn.Conv2d | nn.Conv3d))
            or (isinstance(module, nn.Linear) and any(fnmatchcase(name, pattern) for pattern in network.low_rank))
        )
    )
    if not pairs:
        msg = (
            f"Network {network.config.architecture}: found no linear layers in its encoder, expected some to put"
            " low-rank pairs beside. Ask for pairs of its convolutions too, or choose another strategy."
        )
        raise ModelError(msg)
    heads = tuple(name for name, module in network.modules_of("heads") if any(True for _ in module.parameters()))
    return Places(pairs, heads)


def merged_weights(network: Network, adapter: Adapter) -> dict[str, Tensor]:
    """Return the weights that an adapter changes, merged, by their names in the plain network.

    W' = W + s B A, with s = alpha / r (Hu et al. 2022, equation 3) or, rsLoRA, alpha / sqrt(r)
    (Kalajdzievski 2023, theorem 3.2). With DoRA each output's weights get their trained length m:
    m W' / |W'| (Liu et al. 2024, equation 5).

    Parameters
    ----------
    network
        A plain one, with the weights of the adapter's base.
    adapter
        That fits it.
    """
    merged = {}
    for name in adapter.places.pairs:
        weight = network.get_parameter(f"{name}.weight")
        merged[f"{name}.weight"] = _merged(weight.detach(), name, adapter).to(weight)
    for head in adapter.places.heads:
        for key, tensor in network.get_submodule(head).state_dict().items():
            merged[f"{head}.{key}"] = adapter.state[f"{head}.{key}"].detach().to(tensor, copy=True)
    return merged


def load_merged(network: Network, adapter: Adapter) -> None:
    """Merge an adapter into a plain network, in place; its weights keep their names."""
    network.load_state_dict(merged_weights(network, adapter), strict=False)


def _merged(weight: Tensor, name: str, adapter: Adapter) -> Tensor:
    """Return one merged weight in double precision, computed on the CPU: one rounding, whatever the device."""
    settings, state = adapter.settings, adapter.state
    down, up = (state[f"{name}.lora_{half}.weight"].detach().to("cpu", torch.float64) for half in "AB")
    scale = settings.alpha / (settings.rank**0.5 if settings.rslora else settings.rank)
    changed = weight.to("cpu", torch.float64) + scale * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    if settings.dora:
        column = (-1, *(1,) * (weight.ndim - 1))
        length = state[f"{name}.lora_magnitude_vector"].detach().to("cpu", torch.float64)
        changed *= length.view(column) / changed.flatten(1).norm(dim=1).view(column)
    return changed


def _misfit(network: Network, adapter: Adapter) -> str:
    modules = dict(network.named_modules())
    inside = tuple(f"{name}." for name in network.parts["encoder"])
    strangers = [
        name
        for name in adapter.places.pairs
        if not (name.startswith(inside) and isinstance(modules.get(name), nn.Linear | nn.Conv2d | nn.Conv3d))
    ]
    strangers += [name for name in adapter.places.heads if name not in network.parts["heads"]]
    if strangers:
        more = ", ..." if len(strangers) > 1 else ""
        return f"{len(strangers)} places that {network.config.architecture} has not ({strangers[0]}{more})"
    found = {name: tuple(tensor.shape) for name, tensor in adapter.state.items()}
    problem = describe_mismatch(_expected_shapes(network, adapter), found)
    if problem:
        return f"weights that do not fit {network.config.architecture}, {problem}"
    broken = [name for name, tensor in adapter.state.items() if not torch.isfinite(tensor).all()]
    return f"numbers that are not finite ({broken[0]})" if broken else ""


def _expected_shapes(network: Network, adapter: Adapter) -> Shapes:
    rank = adapter.settings.rank
    shapes: Shapes = {}
    for name in adapter.places.pairs:
        outputs, inputs, *kernel = network.get_parameter(f"{name}.weight").shape
        single = (1,) * len(kernel)
        shapes[f"{name}.lora_A.weight"] = (rank, inputs, *kernel)
        shapes[f"{name}.lora_B.weight"] = (outputs, rank, *single)
        if adapter.settings.dora:
            shapes[f"{name}.lora_magnitude_vector"] = (1, outputs, *single) if kernel else (outputs,)
    for head in adapter.places.heads:
        for key, tensor in network.get_submodule(head).state_dict().items():
            shapes[f"{head}.{key}"] = tuple(tensor.shape)
    return shapes
