"""Published weights, from a file that the user has, as a new model folder.

Nothing is guessed: every name in the file has its place, is known to belong to the pre-training
alone, or is refused.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from napari_pcs.errors import ModelError
from napari_pcs.models.contract import PARTS
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.matching import describe_mismatch, shapes_of
from napari_pcs.models.networks import build_network
from napari_pcs.models.renaming import rename_monai_swin, rename_resnet
from napari_pcs.models.resnet import ResNetConfig
from napari_pcs.models.store import save_network
from napari_pcs.models.swin_unetr import SwinUNETRConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor

    from napari_pcs.models.contract import Network, NetworkConfig
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.models.parts import PartName
    from napari_pcs.models.renaming import Renamed

__all__ = ["KINDS", "ImportKind", "import_weights"]

ImportKind = Literal["monai-swin-unetr", "resnet18"]
KINDS: tuple[ImportKind, ...] = get_args(ImportKind)


class _Recipe(NamedTuple):
    config: NetworkConfig
    rename: Callable[[dict[str, Tensor]], Renamed]
    required: tuple[str, ...]
    """Modules whose weights must all be in the file; of any other, all or none."""
    note: str


_RECIPES: dict[ImportKind, _Recipe] = {
    "monai-swin-unetr": _Recipe(
        SwinUNETRConfig(feature_size=48, window_size=7, position=False),
        rename_monai_swin,
        ("backbone.swinViT",),
        "Self-supervised weights that MONAI publishes for Swin-UNETR (Tang et al. 2022, arXiv 2111.14791, or"
        " Valanarasu et al. 2023, arXiv 2307.16896).",
    ),
    "resnet18": _Recipe(
        ResNetConfig(dimensions=2, colours=3),
        rename_resnet,
        ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
        "ResNet-18 (He et al. 2016). Weights of torchvision and timm expect colours normalised as in ImageNet.",
    ),
}


def import_weights(source: Path, kind: ImportKind, path: Path, *, seed: int = 0) -> ModelFolder:
    """Build a model from published weights.

    Parameters
    ----------
    source
        A .safetensors file, or a PyTorch file that holds tensors only.
    kind
        "monai-swin-unetr": `model_swinvit.pt` or `ssl_pretrained_weights.pth`, for a Swin-UNETR of
        feature size 48 without position channels. "resnet18": a state dict of torchvision's or
        timm's ResNet-18, for a 2-D network with three colours; its class head is left out.
    path
        The new folder; its name is the model's name.
    seed
        Decides the weights that the file does not have.

    Returns
    -------
    ModelFolder
        Its lineage names the file and the parts that came from it; its card, the parts that remain random.

    Raises
    ------
    ModelError
        If the file cannot be read, or holds anything but the weights of this network.
    SessionError
        If the model cannot be written.
    """
    recipe = _RECIPES[kind]
    digest, weights = _read(source)
    renamed = recipe.rename(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(recipe.config)
    _fill(source.name, network, renamed, recipe.required)
    parts = tuple(part for part in PARTS if any(_begun(name, renamed.weights) for name in network.parts[part]))
    stage = Stage(
        name=path.name,
        objective=f"imported: {source.name}",
        data=f"not known; the file's SHA-256 is {digest}",
        epochs=0,
        parts=parts,
    )
    card = _card(path.name, source.name, recipe.note, network, renamed, parts)
    return save_network(network, path, card, lineage=Lineage(stages=(stage,)))


def _card(name: str, source: str, note: str, network: Network, renamed: Renamed, parts: tuple[PartName, ...]) -> str:
    random = [
        f"- {part}: {module_name}"
        for part in PARTS
        for module_name, module in network.modules_of(part)
        if module.state_dict() and not _begun(module_name, renamed.weights)
    ]
    lines = "\n".join(random) or "- none"
    return f"""# {name}

Imported from **{source}**. {note}

- Parts from the file: {", ".join(parts)}
- Left out, because only its pre-training or its classes need them: {", ".join(sorted(renamed.left_out)) or "none"}

## Still random

{lines}
"""


def _begun(module: str, names: Iterable[str]) -> bool:
    """Say whether any of the names is below a module."""
    return any(name.startswith(f"{module}.") for name in names)


def _fill(name: str, network: Network, renamed: Renamed, required: tuple[str, ...]) -> None:
    """Put weights into a network, module by module in full.

    Raises
    ------
    ModelError
        If they do not fit.
    """
    shapes = shapes_of(network)
    found = {key: tuple(tensor.shape) for key, tensor in renamed.weights.items()}
    modules = [*required, *(m for part in PARTS for m in network.parts[part])]
    begun = {m for m in modules if m in required or _begun(m, found)}
    expected = {key: shape for key, shape in shapes.items() if any(key.startswith(f"{m}.") for m in begun)}
    for key in expected.keys() - found.keys():
        if key.endswith(".num_batches_tracked"):  # older files do not have it, and nothing depends on it
            found[key] = expected[key]
    problem = describe_mismatch(expected, found)
    if problem:
        msg = (
            f"{name}: found weights that do not fit {network.config.architecture}, {problem}, expected an exact match."
            " Choose the kind of network that the file is of."
        )
        raise ModelError(msg)
    network.load_state_dict(renamed.weights, strict=False)


def _read(source: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the SHA-256 of a file and the tensors in it by name."""
    try:
        with source.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        content = load_file(source) if source.suffix == ".safetensors" else _load_torch(source)
    except (OSError, SafetensorError) as error:
        msg = f"{source.name}: found a file that cannot be read ({error}), expected weights. Download it again."
        raise ModelError(msg) from error
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        msg = f"{source.name}: found no tensors by name, expected a state dict. Export the weights alone."
        raise ModelError(msg)
    return digest, content


def _load_torch(source: Path) -> object:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged or foreign file can fail in any way
        msg = (
            f"{source.name}: found a file that is damaged or holds more than tensors"
            f" ({str(error).splitlines()[0] if str(error) else type(error).__name__}), expected weights only."
            " Nothing in it was run. Download it again, or save its state dict as .safetensors."
        )
        raise ModelError(msg) from error
