"""Small networks of every kind with adapters in them, and their folders, that several test modules use."""

import torch
from denoisers import tiny_denoiser
from networks import tiny_model, tiny_network

from napari_pcs.models import lora
from napari_pcs.models.adapters import save_adapter
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.models.resnet import ResNet18, ResNetConfig

SIDES = (64, 32, 32)


def tiny_resnet(seed=0, dimensions=3):
    torch.manual_seed(seed)
    return ResNet18(ResNetConfig(dimensions=dimensions, classes=4)).eval()


NETWORKS = {
    "swin_unetr": (tiny_network, LoraConfig()),
    "diffusion_unet": (tiny_denoiser, LoraConfig(rank=4)),
    "resnet18": (tiny_resnet, LoraConfig(rank=2, convolutions=True)),
}
"""How to build each network, and settings that it offers pairs for."""

VARIANTS = [
    LoraConfig(),
    LoraConfig(rank=3, alpha=5, rslora=True),
    LoraConfig(rank=4, dora=True),
    LoraConfig(rank=2, convolutions=True),
    LoraConfig(rank=2, convolutions=True, dora=True),
]


def image_for(network, batch=1):
    """Random images that a network takes, in little time."""
    sides = SIDES if network.side_multiple == 32 else (8, 12, 16)[: network.config.spatial_dims]
    generator = torch.Generator().manual_seed(3)
    return torch.rand((batch, network.config.in_channels, *sides), generator=generator)


def outputs(network, image=None):
    """Everything that a network says of an image."""
    with torch.inference_mode():
        return _outputs(network, image_for(network) if image is None else image)


def loss_of(network, image):
    """A number that every weight takes part in."""
    return sum(out.square().mean() for out in _outputs(network, image))


def _outputs(network, image):
    out = network(image)
    if isinstance(out, torch.Tensor):
        return [out]
    return [*out, network.classify(out.features, out.logits.sigmoid().sum(dim=(1, 2, 3, 4)))]


def differ(one, other):
    """Largest difference of two lists of outputs."""
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def close(one, other):
    """Assert that the logits of voxels or images are equal within 1e-5.

    What is pooled at the bottleneck was normalised over the two voxels that these images have there,
    which makes roundings larger.
    """
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(one[1:], other[1:], atol=1e-4, rtol=1e-4)


def adapted(network, settings, seed=1, size=0.02):
    """Inject an adapter and give it random weights, as if it had been trained."""
    lora.inject(network, settings)
    generator = torch.Generator().manual_seed(seed)
    for tensor in lora.adapter_state(network).values():
        tensor += size * torch.randn(tensor.shape, generator=generator)
    return network


def adapter_model(folder, name="mine", base=None, settings=None, seed=1):
    """Folder of an adapter of a base that lies beside it; returns it and the network as it was saved."""
    base = base or tiny_model(folder, "base")
    settings = settings or LoraConfig()
    network = adapted(tiny_network(), settings, seed)
    stage = Stage(name=name, objective="tune-lora", data="4 cases", epochs=5, parts=("encoder", "heads"))
    lineage = Lineage(stages=(stage,))
    card = f"# {name}\n\nTuned from **base**.\n"
    return save_adapter(network, folder / name, card, base=base, settings=settings, lineage=lineage), network
