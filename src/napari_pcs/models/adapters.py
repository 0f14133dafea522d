"""Adapters as models: saved, switched on one base in memory, and merged into a model of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_pcs.errors import ModelError
from napari_pcs.models.adapter_files import adapter_contents, read_adapter
from napari_pcs.models.bases import find_base
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.lora import NAME, adapter_of, attach
from napari_pcs.models.low_rank import merged_weights
from napari_pcs.models.store import load_base, load_network, save_network
from napari_pcs.models.writing import write_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_pcs.models.contract import Network
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.models.lora_config import LoraConfig

__all__ = ["Adapters", "load_unmerged", "merge_adapter", "save_adapter"]


def save_adapter(
    network: Network,
    path: Path,
    card: str,
    *,
    base: ModelFolder,
    settings: LoraConfig,
    lineage: Lineage | None,
    more: Mapping[str, bytes] | None = None,
    name: str = NAME,
) -> ModelFolder:
    """Write the adapter within a network as a new model folder: all of it, or nothing.

    Parameters
    ----------
    network
        After `lora.inject`; only the adapter's weights are written.
    path
        The new folder; its name is the model's name.
    card
        What the model is and how it scores, in Markdown.
    base
        Model whose weights the network has without the adapter.
    settings
        That the adapter was injected with.
    lineage
        How it came to be. Its last stage receives the digest; the card, a table.
    more
        Other files to write into the folder, by name.
    name
        Of the adapter within the network.

    Raises
    ------
    ModelError
        If the folder exists already.
    SessionError
        If it cannot be written; nothing is left of it.
    ValueError
        If the network's adapter has other settings.
    """
    adapter = adapter_of(network, name)
    if adapter.settings != settings:
        msg = f"The adapter in the network has the settings {adapter.settings}, not {settings}."
        raise ValueError(msg)
    files, digest = adapter_contents(adapter, base.reference)
    return write_model(path, {**files, **(more or {})}, digest, network.config, card, lineage)


def load_unmerged(model: ModelFolder) -> Network:
    """Load an adapter beside its base's weights, not merged: bit for bit the network that was saved.

    Slower than the merged one of `store.load_network`; to compare, or to go on training.

    Raises
    ------
    ModelError
        As `store.load_network`.
    """
    adapter = read_adapter(model)
    network = load_base(model)
    attach(network, adapter.fitting(network, model.name))
    return network.eval()


def merge_adapter(model: ModelFolder, target: Path, card: str) -> ModelFolder:
    """Write the network of an adapter as a model with all weights of its own.

    Parameters
    ----------
    model
        The adapter.
    target
        The new folder.
    card
        In Markdown.

    Raises
    ------
    ModelError
        If it is no adapter, cannot be loaded, or the folder exists already.
    SessionError
        If it cannot be written; nothing is left of it.
    """
    stages, what = model.lineage.stages, f"merged: {model.name} into {find_base(model).name}"
    merged = Stage(name=target.name, objective=what, data="none", epochs=0, parts=())
    lineage = Lineage(stages=(*stages, merged)) if stages else None
    return save_network(load_network(model), target, card, lineage=lineage)


class Adapters:
    """One base in memory and adapters of it, switched by copying the few weights that differ.

    The network stays a plain one, so that whatever runs it fast still does; with an adapter its
    weights are those of `store.load_network`, bit for bit, and without one the base's.

    Parameters
    ----------
    network
        With the weights of the base; changed in place by `switch`.
    base
        Its folder.
    """

    def __init__(self, network: Network, base: ModelFolder) -> None:
        self.network, self.base = network, base
        self._digest = base.digest
        self.active = base
        """Folder of the model whose weights the network has."""
        self._own: dict[str, Tensor] = {}
        self._merged: dict[str, tuple[ModelFolder, dict[str, Tensor]]] = {}

    def add(self, model: ModelFolder) -> None:
        """Read an adapter; the network stays as it is.

        Raises
        ------
        ModelError
            If it is an adapter of another base, or cannot be read.
        """
        found = model.base
        if found is None or found.digest != self._digest:
            what = f"one of {found.name} ({found.digest[:12]})" if found else "none"
            msg = (
                f"Model {model.name}: found {what}, expected an adapter of {self.base.name} ({self._digest[:12]})."
                " Load the model by itself."
            )
            raise ModelError(msg)
        adapter = read_adapter(model)
        active = None if self.active is self.base else self.active.name
        self.switch(None)
        try:
            merged = merged_weights(self.network, adapter.fitting(self.network, model.name))
            own = self.network.state_dict()
            self._own |= {name: own[name].clone() for name in merged if name not in self._own}
            self._merged[model.name] = model, merged
        finally:
            self.switch(active)

    def switch(self, name: str | None) -> None:
        """Give the network the weights of an adapter that was added, by its model's name, or of the base.

        Raises
        ------
        ModelError
            If no adapter of that name was added.
        """
        if name is not None and name not in self._merged:
            known = ", ".join(self._merged) or "none"
            msg = f"Model {name}: found no such adapter of {self.base.name}, expected one of: {known}."
            raise ModelError(msg)
        model, merged = self._merged[name] if name is not None else (self.base, {})
        tensors = self.network.state_dict()
        with torch.inference_mode():  # weights may be inference tensors, after a pass on another device
            for key, tensor in (self._own | merged).items():
                tensors[key].copy_(tensor)
        self.active = model
