"""A model on disk: a folder with config, safetensors weights, a card and a digest.

    models/<name>/  config.json  weights.safetensors  card.md  digest

Loading is strict: a checkpoint that is partial, of another network or altered is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from napari_pcs.errors import ModelError
from napari_pcs.files import write_bytes, write_json, write_text
from napari_pcs.models.contract import Network
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig
from napari_pcs.provenance import ModelReference

__all__ = ["ModelFolder", "find_model", "list_models", "load_network", "save_network"]

_SHOWN = 5


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder; nothing is read before it is asked for."""

    path: Path

    @property
    def name(self) -> str:
        """Folder name, by which the model is chosen."""
        return self.path.name

    @property
    def digest(self) -> str:
        """SHA-256 of the weights as recorded when they were saved."""
        try:
            return (self.path / "digest").read_text().strip()
        except OSError as error:
            msg = f"Model {self.name}: found no digest, expected one beside the weights. Copy the whole folder again."
            raise ModelError(msg) from error

    @property
    def card(self) -> str:
        """What the model was trained on and how it scores (Markdown)."""
        path = self.path / "card.md"
        return path.read_text() if path.exists() else ""

    @property
    def reference(self) -> ModelReference:
        """Name and digest, for provenance."""
        return ModelReference(name=self.name, digest=self.digest)


def list_models(*roots: Path) -> list[ModelFolder]:
    """Return the shipped models, then those under the given folders, by name."""
    found = []
    for root in (_shipped(), *roots):
        found += [ModelFolder(p.parent) for p in sorted(root.glob("*/config.json"))]
    return found


def find_model(name: str, *roots: Path) -> ModelFolder:
    """Return a model by name, or by the path of its folder.

    Raises
    ------
    ModelError
        If there is no such model; the message lists those there are.
    """
    if (Path(name) / "config.json").exists():
        return ModelFolder(Path(name).resolve())
    models = list_models(*roots)
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models) or "none"
    msg = f"Model {name}: found no model of that name, expected one of: {known}, or the path of a model folder."
    raise ModelError(msg)


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
        msg = f"Model {model.name}: found an incomplete or unknown folder ({error}), expected config.json and weights.safetensors."
        raise ModelError(msg) from error
    found = _digest(content)
    if found != model.digest:
        msg = f"Model {model.name}: found weights with digest {found[:12]}, expected {model.digest[:12]}. Copy the folder again."
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


def _shipped() -> Path:
    return Path(str(files("napari_pcs.models"))) / "shipped"


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
