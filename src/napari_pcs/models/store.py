"""Loading and saving networks as model folders.

Loading is strict: a checkpoint that is partial, of another network or altered is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from napari_pcs.errors import ModelError
from napari_pcs.files import json_bytes, write_together
from napari_pcs.models.contract import Segmenter
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.lineage import lineage_table
from napari_pcs.models.matching import describe_mismatch, shapes_of
from napari_pcs.models.networks import build_network, parse_network_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from napari_pcs.models.contract import Network, NetworkConfig
    from napari_pcs.models.lineage import Lineage

__all__ = ["load_network", "load_segmenter", "save_network"]


def load_network(model: ModelFolder) -> Network:
    """Build the network that a folder describes and load all of its weights, in evaluation mode.

    Raises
    ------
    ModelError
        If the config is unknown, or the weights are damaged, incomplete or of another network.
    """
    network = build_network(_read_config(model))
    path = model.path / "weights.safetensors"
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != model.digest:
            msg = (
                f"Model {model.name}: found weights with digest {found[:12]}, expected {model.digest[:12]}."
                " Copy the whole folder again."
            )
            raise ModelError(msg)
        with safe_open(path, "pt") as weights:
            shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        problem = describe_mismatch(shapes_of(network), shapes)
        if problem:
            msg = f"Model {model.name}: found weights that do not fit its network, {problem}, expected an exact match."
            raise ModelError(msg)
        network.load_state_dict(load_file(path))
    except SafetensorError as error:
        msg = f"Model {model.name}: found weights that are no complete safetensors file ({error}). Copy it again."
        raise ModelError(msg) from error
    except OSError as error:
        raise _incomplete(model, str(error)) from error
    return network.eval()


def load_segmenter(model: ModelFolder, *, to_tune: bool = False) -> Segmenter:
    """Load a network that labels voxels.

    Parameters
    ----------
    model
        Its folder.
    to_tune
        Also accept a network whose heads were never trained; tuning trains them.

    Raises
    ------
    ModelError
        If it is another kind of network, has no trained heads, or cannot be loaded.
    """
    if not to_tune:
        model.require_trained_heads()
    network = load_network(model)
    if not isinstance(network, Segmenter):
        msg = (
            f"Model {model.name}: found the network {network.config.architecture}, which labels no voxels,"
            " expected one with a decoder, such as swin_unetr. Choose another model."
        )
        raise ModelError(msg)
    return network


def save_network(
    network: Network,
    path: Path,
    card: str,
    *,
    half: bool = False,
    lineage: Lineage | None = None,
    more: Mapping[str, bytes] | None = None,
) -> ModelFolder:
    """Write a network as a new model folder: all of it, or nothing.

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
    lineage
        How it came to be. Its last stage receives the digest of these weights; the card, a table.
    more
        Other files to write into the folder, by name.

    Raises
    ------
    ModelError
        If the folder exists already.
    SessionError
        If it cannot be written; nothing is left of it.
    """
    if path.exists():
        msg = f"Model {path.name}: found a model of that name already, expected a new name."
        raise ModelError(msg)
    content = save({name: _stored(tensor, half=half) for name, tensor in network.state_dict().items()})
    digest = hashlib.sha256(content).hexdigest()
    contents = {path / "weights.safetensors": content, path / "digest": f"{digest}\n".encode()}
    contents |= {path / name: data for name, data in (more or {}).items()}
    if lineage is not None:
        lineage = lineage.ending_with(digest)
        card = f"{card.rstrip()}\n\n## Lineage\n\n{lineage_table(lineage)}\n"
        contents[path / "lineage.json"] = json_bytes(lineage.model_dump(mode="json"))
    contents[path / "card.md"] = card.encode()
    contents[path / "config.json"] = json_bytes(json.loads(network.config.model_dump_json()))  # makes it a model: last
    try:
        write_together(contents)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # half a folder would take the name of the next try
        raise
    return ModelFolder(path)


def _read_config(model: ModelFolder) -> NetworkConfig:
    try:
        return parse_network_config((model.path / "config.json").read_bytes())
    except OSError as error:
        raise _incomplete(model, str(error)) from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise _incomplete(model, f"config.json: {'; '.join(problems)}") from error


def _incomplete(model: ModelFolder, why: str) -> ModelError:
    return ModelError(
        f"Model {model.name}: found an incomplete or unknown folder ({why}), expected config.json and"
        " weights.safetensors. Copy the whole folder again."
    )


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    """Return a tensor as it is written: 32 bits, or 16 for weights that may lose some."""
    if not tensor.is_floating_point():
        return tensor.detach().to("cpu", torch.int32).contiguous()  # 16 bits would round an index above 2048
    return tensor.detach().to("cpu", torch.float16 if half else torch.float32).contiguous()
