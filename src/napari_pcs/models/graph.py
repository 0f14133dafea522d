"""A network's computation as named pieces, so that what is frozen can be computed once and kept.

A network with gradients on in some of its parts only recomputes the same values in every step up to
where they begin. Which values those are follows from the pieces: the ones that depend on nothing
that trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

__all__ = ["DECODED", "FEATURES", "IMAGE", "Node", "evaluate", "kept_nodes", "trains"]

IMAGE, DECODED, FEATURES = "image", "decoded", "features"
"""Names of the values that every segmenter has: what goes in, and what its heads read."""


class Node(NamedTuple):
    """One piece of a network's computation.

    Attributes
    ----------
    name
        Of the value that it computes.
    inputs
        Names of the values that it is computed from: earlier nodes, or the image.
    modules
        Names of the modules whose weights it uses.
    stride
        Voxels of the image along each axis that one cell of the value stands for; 0 for a value that
        was averaged over the field of view.
    run
        Computes the value (batch, channel[, x, y, z]) from the values of the inputs.
    """

    name: str
    inputs: tuple[str, ...]
    modules: tuple[str, ...]
    stride: int
    run: Callable[..., Tensor]


def evaluate(nodes: Sequence[Node], known: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
    """Compute the wanted values from those that are known, and nothing that they do not need.

    A value is let go as soon as no later node needs it: a pass over a whole hemisphere would
    otherwise hold all of them at once.

    Parameters
    ----------
    nodes
        Of the network, each after its inputs.
    known
        Values by name, at least the image or all that the wanted ones depend on.
    wanted
        Names of nodes.

    Raises
    ------
    KeyError
        If a value that is needed is neither known nor that of a node.
    """
    needed = _needed(nodes, known, wanted)
    left = {name: sum(node.inputs.count(name) for node in needed) for node in needed for name in node.inputs}
    values = {name: value for name, value in known.items() if name in left or name in wanted}
    for node in needed:
        values[node.name] = node.run(*(values[name] for name in node.inputs))
        for name in node.inputs:
            left[name] -= 1
            if not left[name] and name not in wanted:
                del values[name]
    return {name: values[name] for name in wanted}


def kept_nodes(network: nn.Module, nodes: Sequence[Node], wanted: Sequence[str] = (DECODED, FEATURES)) -> list[Node]:
    """Return the nodes whose values are worth keeping: frozen, and read by something that trains or wanted.

    A frozen value depends on no weight that trains. Values before the last frozen ones are not
    needed again, so they are not kept.
    """
    frozen = {IMAGE}
    for node in nodes:
        if frozen.issuperset(node.inputs) and not any(trains(network.get_submodule(name)) for name in node.modules):
            frozen.add(node.name)
    read = {name for node in nodes if node.name not in frozen for name in node.inputs} | set(wanted)
    return [node for node in nodes if node.name in frozen & read]


def trains(module: nn.Module) -> bool:
    """Say whether any weight of a module has gradients on."""
    return any(p.requires_grad for p in module.parameters())


def _needed(nodes: Sequence[Node], known: Mapping[str, Tensor], wanted: Sequence[str]) -> list[Node]:
    names = set(wanted)
    found = []
    for node in reversed(nodes):
        if node.name in names and node.name not in known:
            found.append(node)
            names |= set(node.inputs)
    missing = names - set(known) - {node.name for node in found}
    if missing:
        msg = f"values {', '.join(sorted(missing))} are neither known nor computed"
        raise KeyError(msg)
    return found[::-1]
