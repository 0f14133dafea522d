"""Which parts of a network a tuning strategy trains; everything else stays bit-identical."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_pcs.errors import ModelError
from napari_pcs.models.parts import PARTS, PartName

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from napari_pcs.models.contract import Network

__all__ = ["STRATEGIES", "ParameterCount", "prepare", "trained_modules", "trained_parts", "trained_state"]

TOP_SHARE = 0.10
"""The first paper's top-tuning retrains "the last 10 % of the model's parameters"."""


class ParameterCount(NamedTuple):
    """How many weights a strategy trains, of how many."""

    trainable: int
    total: int


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def top(network: Network) -> list[str]:
    """Return the last 10 % of the weights, from the output backwards in whole modules, plus all heads.

    The heads are trained in any case and do not count towards the share.
    """
    budget = TOP_SHARE * _size(network)
    chosen = list(network.parts["heads"])
    for name, module in reversed(list(network.modules_of("decoder"))):
        budget -= _size(module)
        if budget < 0:
            break
        chosen.append(name)
    return chosen


STRATEGIES: dict[str, Callable[[Network], list[str]]] = {"top": top}
"""Strategies by name: each returns the names of the modules that it trains."""


def prepare(network: Network, strategy: str) -> ParameterCount:
    """Freeze a network except for what the strategy trains.

    Raises
    ------
    ModelError
        If there is no such strategy.
    """
    modules = trained_modules(network, strategy)
    network.requires_grad_(requires_grad=False)
    network.eval()
    for module in modules:
        module.requires_grad_(requires_grad=True).train()
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return ParameterCount(trainable, _size(network))


def trained_modules(network: Network, strategy: str) -> list[nn.Module]:
    """Return the modules that a strategy trains; see `prepare`."""
    if strategy not in STRATEGIES:
        msg = f"Strategy {strategy}: found no such strategy, expected one of: {', '.join(STRATEGIES)}."
        raise ModelError(msg)
    return [network.get_submodule(name) for name in STRATEGIES[strategy](network)]


def trained_parts(network: Network) -> tuple[PartName, ...]:
    """Return the parts of which something trains."""
    return tuple(
        part for part in PARTS if any(p.requires_grad for _, m in network.modules_of(part) for p in m.parameters())
    )


def trained_state(network: Network) -> dict[str, Tensor]:
    """Return copies of the tensors that training may change, by name."""
    return {name: p.detach().cpu().clone() for name, p in network.named_parameters() if p.requires_grad}
