"""Prepared hemispheres of the starter model, and the samples that training draws of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from napari_pcs.models.swin_unetr import SIDE_MULTIPLE
from napari_pcs.training.batches import Drawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEDIAL_PATCH, MEDIAL_START = (32, 96, 96), (57, 84, 55)
"""A patch that holds the whole medial frontal wall, and where it starts on the network's grid."""
ANY_PATCH = (64, 64, 64)
MEDIAL_SHARE = 0.6
AUGMENTATION_SEED, ORDER_SEED = 7, 8

View = Literal["patches", "wholes"]


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


class Samples:
    """Batches of one sample; which one follows from its number in the whole training alone.

    Parameters
    ----------
    hemispheres
        To learn from; each comes once before any comes again.
    view
        Patches of them, or the whole.
    first, count
        Number of the first sample, and how many there are; they make one epoch.
    """

    def __init__(self, hemispheres: list[Hemisphere], view: View, first: int, count: int) -> None:
        self._hemispheres, self._view, self._first = hemispheres, view, first
        self.steps_per_epoch = count

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Drawn]:
        """Yield the samples of an epoch, from a step of it on."""
        start = self._first + epoch * self.steps_per_epoch
        for number in range(start + first_step, start + self.steps_per_epoch):
            turn, place = divmod(number, len(self._hemispheres))
            order = np.random.default_rng([ORDER_SEED, turn]).permutation(len(self._hemispheres))
            rng = np.random.default_rng([AUGMENTATION_SEED, number])
            image, labels = sample(self._hemispheres[order[place]], self._view, rng)
            yield Drawn({"image": image, "labels": labels})

    def validation(self) -> Iterator[Drawn]:
        """Yield nothing: held-out people judge the finished model."""
        yield from ()


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


def sample(h: Hemisphere, view: View, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return an augmented image (1, 4, x, y, z) and its labels (1, x, y, z)."""
    box, pad = (patch(h, rng), [(0, 0)] * 3) if view == "patches" else whole(h)
    image = augment(h.tissue[box], h.position[(slice(None), *box)], rng)
    image = np.pad(image, [(0, 0), *pad])
    return torch.from_numpy(image)[None], torch.from_numpy(np.pad(h.labels[box], pad))[None]
