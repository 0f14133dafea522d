"""Small untrained networks, their folders and a small field of view that several test modules use."""

import torch

from napari_pcs.anatomy.grid import NetworkGrid
from napari_pcs.models.store import save_network
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig

CPU = torch.device("cpu")
SMALL = (64, 64, 32)
"""Sides of a box that a network passes in a fraction of a second."""
LONG = (64, 96, 32)
"""Sides of a box in which a patch of 64 voxels has more than one place."""
SMALL_START = (24, 80, 100)
"""Where that box holds all of the phantom's paracingulate sulcus."""


def tiny_network(seed=0, **options):
    """Network with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return MultiTaskSwinUNETR(SwinUNETRConfig(**{"feature_size": 12, "window_size": 4, **options})).eval()


def tiny_model(folder, name="tiny", seed=0):
    """Model folder of a network with random weights."""
    return save_network(tiny_network(seed), folder / name, f"# {name}\n\nRandom weights.\n")


def random_image(shape=SMALL, channels=4, seed=0):
    return torch.rand((1, channels, *shape), generator=torch.Generator().manual_seed(seed))


def look_through_a_small_box(monkeypatch, sides=SMALL, start=SMALL_START):
    """Let networks see a small box of each hemisphere only, which makes them quick."""
    box = classmethod(lambda cls, content, frame: cls(frame, content.shape, start, sides))
    monkeypatch.setattr(NetworkGrid, "around", box)


def tensors_of(network):
    """Return copies of all weights and buffers by name."""
    return {name: t.detach().clone() for name, t in [*network.named_parameters(), *network.named_buffers()]}
