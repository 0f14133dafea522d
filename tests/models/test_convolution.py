import pytest
import torch
from networks import random_image, tiny_network
from torch import nn

from napari_pcs.models.convolution import SmallConv3d, quicken_convolutions


def trained(convolution, image):
    """Output, and gradients of image and weights for a loss that weighs outputs unevenly."""
    image = image.clone().requires_grad_()
    convolution.zero_grad()
    out = convolution(image)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), image.grad, *(p.grad.clone() for p in convolution.parameters())]


def pair(**options):
    torch.manual_seed(0)
    plain = nn.Conv3d(4, 6, 3, padding=1, **options)
    ours = nn.Conv3d(4, 6, 3, padding=1, **options)
    ours.load_state_dict(plain.state_dict())
    quicken_convolutions(ours)
    assert type(ours) is SmallConv3d
    return plain, ours


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"stride": 2}, {"groups": 2}])
@pytest.mark.parametrize("batch", [1, 2])
def test_outputs_and_gradients_are_pytorchs(options, batch):
    plain, ours = pair(**options)
    image = torch.cat([random_image((8, 12, 10), seed=seed) for seed in range(batch)])
    for a, b in zip(trained(ours, image), trained(plain, image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_double_precision_and_half_precision_are_left_to_pytorch():
    plain, ours = pair()
    image = random_image((8, 12, 10))
    for network in (plain, ours):
        network.double()
    torch.testing.assert_close(ours(image.double()), plain(image.double()), atol=0, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours.float()(image).dtype == torch.bfloat16


def test_an_image_that_trains_nothing_and_an_image_without_gradients_pass():
    plain, ours = pair()
    image = random_image((8, 12, 10))
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), plain(image), atol=1e-5, rtol=1e-5)
    ours.requires_grad_(requires_grad=False)
    assert not ours(image).requires_grad


def test_only_the_convolutions_of_three_voxels_are_changed():
    network = tiny_network()
    changed = {name for name, module in network.named_modules() if type(module) is SmallConv3d}
    assert changed == {
        name for name, m in network.named_modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3)
    }
    assert changed
