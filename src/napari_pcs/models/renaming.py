"""Names that published weights have in their files, and those that they have here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Renamed", "rename_monai_swin", "rename_resnet"]

_PRETRAINING = re.compile(
    r"(?:encoder\.)?(?:mask_token|norm\.(?:weight|bias))"
    r"|(?:rotation_head|contrastive_head|convTrans3d|out\.conv\.conv)\.(?:weight|bias)"
)
"""Heads of the pre-training of Swin-UNETR, and its last normalisation; see `monai...swin_unetr.filter_swinunetr`."""
_TWICE = re.compile(r"(layers\d\.)0\.(0\.)")
_PREFIXES = ("module.", "_orig_mod.")


class Renamed(NamedTuple):
    """Weights by the names of a network's own state dict, and the names that were left out."""

    weights: dict[str, Tensor]
    left_out: frozenset[str]


def rename_monai_swin(weights: dict[str, Tensor]) -> Renamed:
    """Rename self-supervised weights of Swin-UNETR as MONAI does.

    `model_swinvit.pt` has `module.layers1.0.blocks.0.mlp.fc1.weight` (see `SwinUNETR.load_from`);
    `ssl_pretrained_weights.pth` has `encoder.layers1.0.0.blocks.0.mlp.linear1.weight` (see
    `filter_swinunetr`), and the convolutions beside the transformer under their own names. What
    fits nowhere keeps its name, to be told.
    """
    found, left_out = {}, set()
    for original, tensor in weights.items():
        name = _without_prefix(original)
        if _PRETRAINING.fullmatch(name):
            left_out.add(original)
            continue
        inner = re.sub(r"^(swinViT|encoder)\.", "", name)
        inner = _TWICE.sub(r"\1\2", inner).replace(".mlp.fc", ".mlp.linear")
        if inner.startswith(("patch_embed.", "layers")):
            found[f"backbone.swinViT.{inner}"] = tensor
        elif re.match(r"(encoder|decoder)\d+\.", name):
            found[f"backbone.{name}"] = tensor
        else:
            found[original] = tensor
    return Renamed(found, frozenset(left_out))


def rename_resnet(weights: dict[str, Tensor]) -> Renamed:
    """Rename a ResNet's weights, whose names are torchvision's, and leave the class head out."""
    named = {_without_prefix(name): (name, tensor) for name, tensor in weights.items()}
    left_out = frozenset(original for name, (original, _) in named.items() if name in {"fc.weight", "fc.bias"})
    return Renamed({name: t for name, (original, t) in named.items() if original not in left_out}, left_out)


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
