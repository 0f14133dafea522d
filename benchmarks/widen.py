"""Make of a Swin-UNETR one of twice the channels that says the same, to measure accuracy at a size nobody has trained.

    python benchmarks/widen.py MODEL FOLDER

Every channel is there twice, and what reads both takes half of each (Chen, Goodfellow and Shlens 2016, Net2Net,
section 2.2). Statistics of normalisations stay; products of queries and keys double while their scale falls by
sqrt(2), so queries are divided by sqrt(2). The largest difference of a probability is printed. `napari-pcs tune`
then makes the copies differ.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_pcs.models.folders import find_model
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.store import load_segmenter, save_network
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR

if TYPE_CHECKING:
    from torch import Tensor

SIDES = (64, 96, 64)
CLASS_HEAD = "class_head.out.weight"
"""Reads the features, and after them the volume, which is there once."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("folder", type=Path)
    given = options.parse_args()
    model = find_model(given.model)
    narrow = load_segmenter(model).eval()
    config = narrow.config.model_copy(update={"feature_size": 2 * narrow.config.feature_size})
    wide = MultiTaskSwinUNETR(config).eval()
    known = narrow.state_dict()
    wide.load_state_dict({name: widened(name, known[name], value.shape) for name, value in wide.state_dict().items()})
    image = torch.rand((1, config.in_channels, *SIDES), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, two = narrow(image), wide(image)
    differences = (channel_probabilities(one.logits) - channel_probabilities(two.logits)).abs()
    save_network(wide, given.folder, f"# {given.folder.name}\n\n{model.name} with every channel twice.\n")
    print(f"{given.folder}: probabilities differ by at most {differences.max():.1e}")


def widened(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Return a weight of the wide network."""
    if name == CLASS_HEAD:
        features, volume = value[:, :-1], value[:, -1:]
        return torch.cat([features.repeat_interleave(2, dim=1) / 2, volume], dim=1)
    reads = None if value.ndim < 2 else 0 if "transp_conv" in name else 1
    for axis, (sides, wanted) in enumerate(zip(tuple(value.shape), shape, strict=True)):
        if wanted == sides:
            continue
        # One beside the other, so that what is concatenated stays in order.
        value = value.repeat_interleave(2, dim=axis)
        if axis == reads:
            value = value / 2
    if ".attn.qkv." in name:
        queries, *others = value.chunk(3)
        value = torch.cat([queries / math.sqrt(2), *others])
    return value


if __name__ == "__main__":
    main()
