"""Whether weights fit a network, said in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn

__all__ = ["Shapes", "describe_mismatch", "shapes_of"]

_SHOWN = 5

Shapes = dict[str, tuple[int, ...]]


def shapes_of(network: nn.Module) -> Shapes:
    """Return the shape of every weight and statistic of a network by name."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def describe_mismatch(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Count and name what is missing, unexpected and of another shape; empty if all fits.

    Of each kind a few names are shown.
    """
    other = (
        f"{name} {'x'.join(map(str, found[name])) or 'scalar'} for {'x'.join(map(str, expected[name])) or 'scalar'}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    )
    kinds: dict[str, Collection[str]] = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": list(other),
    }
    return "; ".join(_counted(what, names) for what, names in kinds.items() if names)


def _counted(what: str, names: Collection[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {what} ({', '.join(list(names)[:_SHOWN])}{more})"
