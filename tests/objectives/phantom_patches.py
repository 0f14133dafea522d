"""Patches of the phantom, batches of them as the loop makes them, and one step of the loop."""

from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from napari_pcs.data.patch import Patch
from napari_pcs.data.phantom import phantom
from napari_pcs.labels import Hemisphere
from napari_pcs.models.contract import Network, NetworkConfig

SIZE = (64, 32, 32)
"""Smallest patch that Swin-UNETR trains on, and quick."""


@cache
def _tissue():
    return phantom(Hemisphere.LEFT).tissue.data.astype(np.float32) / 2


def phantom_patches(count, size=SIZE, seed=0):
    """Patches at random places, with positions that would tell them apart."""
    rng = np.random.default_rng(seed)
    tissue = _tissue()
    patches = []
    for i in range(count):
        start = [rng.integers(15, n - m - 15) if n - m > 30 else 0 for n, m in zip(tissue.shape, size, strict=True)]
        box = tuple(slice(a, min(a + m, n)) for a, m, n in zip(start, size, tissue.shape, strict=True))
        image = np.zeros((1, *size), dtype=np.float32)
        image[(0, *(slice(b.stop - b.start) for b in box))] = tissue[box]
        position = np.stack(np.meshgrid(*[np.linspace(0, 1, m) + i for m in size], indexing="ij"))
        patches.append(Patch(image, position.astype(np.float32), f"patch{i}"))
    return patches


def pictures(count, size=(40, 48), seed=0):
    """Coloured 2-D images, each with waves of its own direction and width."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [
        np.sin(rng.uniform(-0.6, 0.6, (3, 1, 1)) * y + rng.uniform(-0.6, 0.6, (3, 1, 1)) * x) for _ in range(count)
    ]
    return [Patch((w / 2 + 0.5).astype(np.float32), None, f"picture{i}") for i, w in enumerate(waves)]


def batch_of(objective, patches, size, config, seed=0):
    """Samples as a data loader stacks them."""
    samples = [
        objective.sample(patch, size, config, np.random.default_rng(seed + i)) for i, patch in enumerate(patches)
    ]
    return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in samples[0]}


def loss_of(objective, batch):
    """Loss of a whole batch, its figures and its embedding."""
    outcome = objective(batch)
    comparison = objective.compare(outcome.embedding)
    loss = comparison.loss if outcome.loss is None else outcome.loss + comparison.loss
    return loss, {**outcome.figures, **comparison.figures}, outcome.embedding


def step(objective, optimiser, batch, epoch=1):
    """One step as the loop does it; returns the loss before it."""
    optimiser.zero_grad()
    loss, _, _ = loss_of(objective, batch)
    loss.backward()
    objective.before_step(epoch)
    optimiser.step()
    objective.after_step()
    return loss.item()


def moved_by_one_step(objective, batch, epoch=1):
    """Names of the weights that one step changes, and of those that had a gradient."""
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    step(objective, torch.optim.SGD(objective.parameters_of("main"), lr=0.1), batch, epoch)
    after = dict(objective.named_parameters())
    moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
    return moved, {name for name, p in after.items() if p.grad is not None and bool(p.grad.any())}


def part_of(network, name):
    """Part of a network that a weight is of."""
    return next(part for part in network.parts for module in network.parts[part] if name.startswith(module))


class PlainConfig(NetworkConfig):
    """Of `PlainNetwork`."""

    architecture: str = "plain"
    dimensions: int

    @property
    def in_channels(self):
        return 3 if self.dimensions == 2 else 1

    @property
    def spatial_dims(self):
        return self.dimensions


class PlainNetwork(Network):
    """Two convolutions for images or volumes, and a class head that nothing uses; no normalisation."""

    parts: ClassVar = {"stem": ("stem",), "encoder": ("encoder",), "decoder": (), "heads": ("head",)}

    def __init__(self, dimensions, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.config = PlainConfig(dimensions=dimensions)
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.stem = nn.Sequential(convolution(self.config.in_channels, 8, 3, 2), nn.ReLU())
        self.encoder = nn.Sequential(convolution(8, 16, 3, 2), nn.ReLU())
        self.head = nn.Linear(16, 3)

    @property
    def embedding_channels(self):
        return 16

    def embed(self, image):
        return self.encoder(self.stem(image)).flatten(2).mean(dim=2)
