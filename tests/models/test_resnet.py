import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from napari_pcs.errors import ModelError
from napari_pcs.models.resnet import ResNet18, ResNetConfig


def build(seed=0, **options):
    torch.manual_seed(seed)
    return ResNet18(ResNetConfig(**options))


def published_names():
    """Names and shapes of ResNet-18's weights, written down from He et al. 2016, table 1, in torchvision's words."""

    def norm(name, channels):
        return {f"{name}.{k}": (channels,) for k in ("weight", "bias", "running_mean", "running_var")} | {
            f"{name}.num_batches_tracked": ()
        }

    found = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    before = 64
    for layer, channels in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            found |= {f"{name}.conv1.weight": (channels, before, 3, 3), **norm(f"{name}.bn1", channels)}
            found |= {f"{name}.conv2.weight": (channels, channels, 3, 3), **norm(f"{name}.bn2", channels)}
            if before != channels:
                found |= {f"{name}.downsample.0.weight": (channels, before, 1, 1)}
                found |= norm(f"{name}.downsample.1", channels)
            before = channels
    return found | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def naive_logits(weights, image):
    """Compute ResNet-18 in evaluation from its weights by name, without any module."""
    conv = F.conv2d if image.ndim == 4 else F.conv3d
    pool = F.max_pool2d if image.ndim == 4 else F.max_pool3d

    def norm(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{name}.{k}"] for k in names), training=False, eps=1e-5)

    x = pool(F.relu(norm(conv(image, weights["conv1.weight"], stride=2, padding=3), "bn1")), 3, stride=2, padding=1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            out = F.relu(norm(conv(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            out = norm(conv(out, weights[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in weights:
                x = norm(conv(x, weights[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = F.relu(out + x)
    return F.linear(x.flatten(2).mean(dim=2), weights["fc.weight"], weights["fc.bias"])


def test_names_and_shapes_are_those_of_published_weights():
    found = {name: tuple(t.shape) for name, t in build(classes=1000).state_dict().items()}
    assert found == published_names()
    assert sum(p.numel() for p in build(classes=1000).parameters()) == 11_689_512


@pytest.mark.parametrize("options", [{"dimensions": 2}, {"dimensions": 3, "position": True}])
def test_logits_are_those_of_the_naive_formula(options):
    network = build(**options, classes=3)
    sides = (64, 48, 32)[: network.config.spatial_dims]
    image = torch.rand((2, network.config.in_channels, *sides))
    network.train()(image)  # running statistics that are not those of an untrained network
    network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(network(image), naive_logits(network.state_dict(), image), atol=1e-5, rtol=1e-4)


def test_an_embedding_is_what_the_class_head_reads():
    network = build(classes=5).eval()
    image = torch.rand((2, 3, 64, 64))
    with torch.inference_mode():
        torch.testing.assert_close(network.fc(network.embed(image)), network(image))


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({}, 3),
        ({"colours": 1}, 1),
        ({"dimensions": 3}, 1),
        ({"dimensions": 3, "position": True}, 4),
        ({"spatial_dims": 3, "colours": 3}, 1),
    ],
)
def test_channels_are_colours_or_tissue_and_position(options, channels):
    network = build(**options)
    assert network.config.in_channels == network.conv1.in_channels == channels
    assert network.config.image_channels == (1 if network.config.spatial_dims == 3 else channels)


def test_without_classes_there_is_no_head_and_no_logits():
    network = build()
    assert not [name for name in network.state_dict() if name.startswith("fc")]
    assert isinstance(network.fc, nn.Identity)
    with pytest.raises(ModelError, match="found no class head, expected one"):
        network(torch.rand((2, 3, 64, 64)))


@pytest.mark.parametrize(
    "wrong", [{"position": True}, {"dimensions": 4}, {"colours": 2}, {"classes": -1}, {"depth": 1}]
)
def test_a_configuration_that_fits_no_network_is_refused(wrong):
    with pytest.raises(ValidationError):
        ResNetConfig(**wrong)
