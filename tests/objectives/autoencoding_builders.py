"""Patches, batches and checks that tests of reconstructing objectives share."""

from functools import cache

import numpy as np
import torch
from networks import tiny_network
from scipy.ndimage import gaussian_filter

from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.grid import NetworkGrid
from napari_pcs.data.patch import Patch
from napari_pcs.data.phantom import phantom

SIZE = (64, 32, 32)
START = (22, 110, 80)


@cache
def phantom_patch():
    """Patch of the phantom's medial wall: tissue in [0, 1] and where it lies."""
    case = phantom()
    tissue = case.tissue.data
    frame = estimate_frame(tissue > 0, case.tissue.spacing, case.key.hemisphere)
    grid = NetworkGrid(frame, tissue.shape, START, SIZE)
    return Patch(grid.pull(tissue / 2)[None], grid.position(), "phantom")


def random_patch(seed=0, size=SIZE):
    """Patch without any structure."""
    rng = np.random.default_rng(seed)
    return Patch(rng.random((1, *size), dtype=np.float32), rng.random((3, *size), dtype=np.float32), "random")


def batch_of(objective, *patches, seed=0):
    """Stack one sample of each patch."""
    samples = [
        objective.sample(patch, patch.image.shape[1:], objective.config, np.random.default_rng(seed + i))
        for i, patch in enumerate(patches)
    ]
    return {name: torch.stack([torch.from_numpy(sample[name]) for sample in samples]) for name in samples[0]}


def part_of(batch, start, stop):
    return {name: tensor[start:stop] for name, tensor in batch.items()}


def objective_of(cls, seed=0, **settings):
    """Objective on a tiny network, ready to train."""
    network = tiny_network(seed)
    torch.manual_seed(seed)
    return cls(network, cls.config_class(**settings)).train()


def step(objective, batch, turn, rate=1e-3):
    """One step of a turn's optimiser; returns the loss before it."""
    optimiser = torch.optim.Adam(objective.parameters_of(turn), lr=rate)
    loss = objective(batch, turn).loss
    loss.backward()
    optimiser.step()
    objective.zero_grad()
    return loss.item()


def moved(objective, before):
    """Names of the tensors that are not what they were, bit by bit."""
    now = dict([*objective.named_parameters(), *objective.named_buffers()])
    return {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}


def gradients(objective, turn, *batches):
    """Mean gradient of a turn's weights over batches, as one vector; zeros where there is none."""
    for batch in batches:
        (objective(batch, turn).loss / len(batches)).backward()
    weights = objective.parameters_of(turn)
    vector = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in weights])
    objective.zero_grad()
    return vector


def naive_similarity(a, b):
    """Means of SSIM (eq. 1) and of its contrast-structure term, in double precision."""

    def smooth(image):
        return gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5, 5:-5]

    mean_a, mean_b, c1, c2 = smooth(a), smooth(b), 0.01**2, 0.03**2
    var_a, var_b, cov = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2, smooth(a * b) - mean_a * mean_b
    contrast = (2 * cov + c2) / (var_a + var_b + c2)
    return (contrast * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)).mean(), contrast.mean()


def encoder_and_decoder(objective):
    """Names of the weights of the stem, the encoder and the decoder."""
    names = set()
    for part in ("stem", "encoder", "decoder"):
        for module, found in objective.network.modules_of(part):
            names |= {f"network.{module}.{name}" for name, _ in found.named_parameters()}
    return names
