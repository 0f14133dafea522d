"""Which values of a network's computation stay as they are while a part of it trains, and what they depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_pcs.data.bundles import bundle_key
from napari_pcs.models.graph import IMAGE, Node, kept_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from napari_pcs.models.contract import Segmenter

__all__ = ["value_names", "values_digest"]


def value_names(network: Segmenter) -> tuple[str, ...]:
    """Return the names of the values from which the part of a network that trains can be computed."""
    nodes = network.nodes()
    kept = [node.name for node in kept_nodes(network, nodes)]
    frozen = _ancestors(nodes, kept) | set(kept)
    reads_image = any(IMAGE in node.inputs for node in nodes if node.name not in frozen)
    return (*kept, *([IMAGE] if reads_image else []))


def _ancestors(nodes: Sequence[Node], names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for node in reversed(nodes):
        if node.name in names or node.name in found:
            found |= set(node.inputs)
    return found


def values_digest(network: Segmenter, names: Sequence[str], wanted: Sequence[str]) -> str:
    """Return a digest of the weights on which values depend: those kept, and those wanted, on whose way is measured."""
    nodes = network.nodes()
    named = {*names, *wanted}
    used = _ancestors(nodes, tuple(named)) | named
    modules = dict.fromkeys(name for node in nodes if node.name in used for name in node.modules)
    state = (part for name in modules for part in _state_of(network.get_submodule(name)))
    config = network.config.model_dump_json(exclude={"flash_attention", "gradient_checkpointing"})
    return bundle_key(config, ",".join(names), ",".join(wanted), *state)


def _state_of(module: nn.Module) -> list[str | NDArray[Any]]:
    return [part for name, value in module.state_dict().items() for part in (name, value.detach().cpu().numpy())]
