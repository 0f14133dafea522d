"""Train the starter model on prepared hemispheres; interrupt and run again to resume.

Three stages, each in the field of view that the next one needs: patches (fast, many), whole
hemispheres (the mode in which the model is used; instance normalisation depends on it), and the
class head on whole hemispheres' features.

    python scripts/starter/train.py PREPARED RUN [--patches 1600] [--wholes 110]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.swin_unetr import SIDE_MULTIPLE, MultiTaskSwinUNETR, SwinUNETRConfig
from napari_pcs.training.losses import dice_loss, nested_cross_entropy, segmentation_targets

HELD_OUT_SUBJECTS = 9
MEDIAL_PATCH, MEDIAL_START = (32, 96, 96), (57, 84, 55)
"""A patch that holds the whole medial frontal wall, and where it starts on the network's grid."""
ANY_PATCH = (64, 64, 64)
MEDIAL_SHARE = 0.6
SKELETON_WEIGHT, PCS_WEIGHT = 2.0, 3.0
SAVE_EVERY = 50


@dataclass
class Hemisphere:
    """One prepared hemisphere on the network's grid."""

    name: str
    tissue: np.ndarray
    labels: np.ndarray
    position: np.ndarray
    pcs_class: int

    @classmethod
    def load(cls, path: Path) -> Hemisphere:
        with np.load(path) as f:
            index = ["absent", "small", "present"].index(str(f["cls"]))
            return cls(path.stem, f["tissue"], f["labels"], f["position"].astype(np.float32), index)


def split(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Hold out whole people, chosen by a fixed permutation."""
    people = sorted({p.stem.split("_")[0] for p in paths})
    held = {people[i] for i in np.random.default_rng(2026).permutation(len(people))[:HELD_OUT_SUBJECTS]}
    return [p for p in paths if p.stem.split("_")[0] not in held], [p for p in paths if p.stem.split("_")[0] in held]


def augment(tissue: np.ndarray, position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary what differs between scanners and pipelines: grey level, partial volume, noise, frame."""
    image = tissue.astype(np.float32) / 2
    image[tissue == 1] += rng.normal(0, 0.08)
    if rng.random() < 0.3:
        image = ndimage.gaussian_filter(image, rng.uniform(0.3, 0.7))
    image += rng.normal(0, 0.04, image.shape).astype(np.float32)
    shift = rng.normal(0, 0.03, (3, 1, 1, 1)).astype(np.float32)
    return np.concatenate([image[None], position * np.float32(rng.normal(1, 0.03)) + shift])


def patch(h: Hemisphere, rng: np.random.Generator) -> tuple[slice, ...]:
    """Choose a patch: the medial frontal wall, or anywhere with tissue."""
    if rng.random() < MEDIAL_SHARE:
        size = MEDIAL_PATCH
        start = np.asarray(MEDIAL_START) + rng.integers((-6, -12, -12), (2, 11, 11))
    else:
        size = ANY_PATCH
        inside = np.flatnonzero(h.tissue)
        start = np.array(np.unravel_index(rng.choice(inside), h.tissue.shape)) - 32
    start = np.clip(start, 0, np.asarray(h.tissue.shape) - size)
    return tuple(slice(int(a), int(a) + n) for a, n in zip(start, size, strict=True))


def whole(h: Hemisphere) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """Bounding box of the tissue and the padding to a multiple of 32."""
    box = ndimage.find_objects((h.tissue > 0).astype(np.uint8))[0]
    return box, [(0, -(s.stop - s.start) % SIDE_MULTIPLE) for s in box]


def sample(h: Hemisphere, stage: str, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return an augmented image (1, 4, x, y, z) and its labels (1, x, y, z)."""
    box, pad = (patch(h, rng), [(0, 0)] * 3) if stage == "patches" else whole(h)
    image = augment(h.tissue[box], h.position[(slice(None), *box)], rng)
    image = np.pad(image, [(0, 0), *pad])
    return torch.from_numpy(image)[None], torch.from_numpy(np.pad(h.labels[box], pad))[None]


def rate(step: int, lengths: dict[str, int]) -> tuple[str, float]:
    """Stage and learning rate of a step: warm-up, cosine, and a smaller cosine for whole hemispheres."""
    if step < lengths["patches"]:
        t = step / lengths["patches"]
        return "patches", min(1, (step + 1) / 50) * (3e-4 + (2e-3 - 3e-4) * 0.5 * (1 + math.cos(math.pi * t)))
    t = (step - lengths["patches"]) / lengths["wholes"]
    return "wholes", min(1, (step - lengths["patches"] + 1) / 5) * 6e-4 * 0.5 * (
        1 + math.cos(math.pi * min(t, 1))
    ) + 5e-6


def train(paths: list[Path], run: Path, lengths: dict[str, int]) -> MultiTaskSwinUNETR:
    """Run the first two stages, saving every few steps."""
    torch.manual_seed(0)
    net = MultiTaskSwinUNETR(SwinUNETRConfig(feature_size=12, window_size=4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    first, checkpoint = 0, run / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    hemispheres = [Hemisphere.load(p) for p in paths]
    total = sum(lengths.values())
    for step in range(first, total):
        rng = np.random.default_rng([7, step])
        stage, lr = rate(step, lengths)
        for group in optimizer.param_groups:
            group["lr"] = lr
        start = time.perf_counter()
        order = np.random.default_rng([8, step // len(hemispheres)]).permutation(len(hemispheres))
        image, labels = sample(hemispheres[order[step % len(hemispheres)]], stage, rng)
        targets = segmentation_targets(labels)
        out = net(image)
        loss = dice_loss(channel_probabilities(out.logits), targets) + nested_cross_entropy(
            out.logits, targets, skeleton_weight=SKELETON_WEIGHT, pcs_weight=PCS_WEIGHT
        )
        optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(net.parameters(), 1.0))
        if math.isfinite(norm):
            optimizer.step()
        record = {
            "step": step,
            "stage": stage,
            "loss": float(loss),
            "lr": lr,
            "seconds": time.perf_counter() - start,
            "norm": norm,
        }
        with (run / "history.jsonl").open("a") as f:
            f.write(json.dumps(record) + "\n")
        if (step + 1) % (SAVE_EVERY if stage == "patches" else 5) == 0 or step + 1 == total:
            partial = checkpoint.with_suffix(".tmp")
            torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, partial)
            partial.replace(checkpoint)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--patches", type=int, default=1600)
    parser.add_argument("--wholes", type=int, default=110)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    training, held_out = split(sorted(args.prepared.glob("*.npz")))
    (args.run / "split.json").write_text(
        json.dumps({"train": [p.stem for p in training], "held_out": [p.stem for p in held_out]}, indent=1)
    )
    train(training, args.run, {"patches": args.patches, "wholes": args.wholes})


if __name__ == "__main__":
    main()
