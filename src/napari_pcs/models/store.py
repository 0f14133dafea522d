"""Loading and saving networks as model folders.

Loading is strict: a checkpoint that is partial, of another network or altered is refused.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from napari_pcs.errors import ModelError
from napari_pcs.files import write_bytes, write_json, write_text
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig

if TYPE_CHECKING:
    from pathlib import Path

    from napari_pcs.models.contract import Network

__all__ = ["load_network", "save_network"]

_SHOWN = 5


def load_network(model: ModelFolder) -> MultiTaskSwinUNETR:
    """Build the network that a folder describes and load all of its weights, in evaluation mode.

    Raises
    ------
    ModelError
        If the config is unknown, or the weights are damaged, incomplete or of another network.
    """
    try:
        config = SwinUNETRConfig.model_validate_json((model.path / "config.json").read_text())
        content = (model.path / "weights.safetensors").read_bytes()
    except (OSError, ValidationError) as error:
        msg = (
            f"Model {model.name}: found an incomplete or unknown folder ({error}), expected config.json and"
            " weights.safetensors. Copy the whole folder again."
        )
        raise ModelError(msg) from error
    found = _digest(content)
    if found != model.digest:
        msg = (
            f"Model {model.name}: found weights with digest {found[:12]}, expected {model.digest[:12]}."
            " Copy the whole folder again."
        )
        raise ModelError(msg)
    try:
        weights = load(content)
    except SafetensorError as error:
        msg = f"Model {model.name}: found weights that are no safetensors file ({error})."
        raise ModelError(msg) from error
    network = MultiTaskSwinUNETR(config)
    _require_match(model.name, network, {name: tuple(t.shape) for name, t in weights.items()})
    network.load_state_dict(weights)
    return network.eval()


def save_network(network: MultiTaskSwinUNETR, path: Path, card: str, *, half: bool = False) -> ModelFolder:
    """Write a network as a new model folder; `config.json` comes last and makes it a model.

    Parameters
    ----------
    network
        Its configuration and weights are written.
    path
        The new folder; its name is the model's name.
    card
        What the model is and how it scores, in Markdown.
    half
        Store 16-bit weights: half the size, for a model that is to be shipped.

    Raises
    ------
    ModelError
        If the folder exists already.
    SessionError
        If it cannot be written.
    """
    if path.exists():
        msg = f"Model {path.name}: found a model of that name already, expected a new name."
        raise ModelError(msg)
    dtype = torch.float16 if half else torch.float32
    content = save({name: t.detach().cpu().to(dtype).contiguous() for name, t in network.state_dict().items()})
    write_bytes(path / "weights.safetensors", content)
    write_text(path / "digest", _digest(content) + "\n")
    write_text(path / "card.md", card)
    write_json(path / "config.json", json.loads(network.config.model_dump_json()))
    return ModelFolder(path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _require_match(name: str, network: Network, found: dict[str, tuple[int, ...]]) -> None:
    expected = {key: tuple(t.shape) for key, t in network.state_dict().items()}
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k]),
    }
    if any(problems.values()):
        parts = [f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])})" for what, keys in problems.items() if keys]
        msg = f"Model {name}: found weights that do not fit its network, {'; '.join(parts)}, expected an exact match."
        raise ModelError(msg)
