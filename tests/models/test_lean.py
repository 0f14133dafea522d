"""Frozen blocks that hold less: the same output bit for bit, and the same gradients."""

import copy

import pytest
import torch
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock
from networks import tensors_of, tiny_network
from torch import nn

from napari_pcs.models.convolution import quicken_convolutions
from napari_pcs.models.field_of_view import as_part, part_norms
from napari_pcs.models.lean import LeanResBlock, LeanSwinBlock, lean_blocks
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.strategies import prepare

NORM = ("instance", {"affine": False})


def blocks(channels=(5, 3), *, lean=True, dtype=torch.float64, norm=NORM, stride=1, **options):
    """The same block as MONAI has it, and as it is here, frozen."""
    torch.manual_seed(0)
    plain = UnetResBlock(3, *channels, kernel_size=3, stride=stride, norm_name=norm, **options).to(dtype)
    plain.requires_grad_(requires_grad=False)
    ours = copy.deepcopy(plain)
    lean_blocks(nn.Sequential(ours))
    assert isinstance(ours, LeanResBlock) == lean
    return plain, ours


def image(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def gradient(block, x):
    out = block(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    (found,) = torch.autograd.grad((out * weights).sum(), x)
    return out.detach(), found


@pytest.mark.parametrize("channels", [(5, 3), (4, 4)], ids=["another number of channels", "as many channels"])
@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (1, 4, 4, 4), (3, 2, 1, 1)])
def test_output_and_gradient_are_those_of_monais_block(channels, shape):
    plain, ours = blocks(channels)
    x = image((shape[0], channels[0], *shape[1:]))
    (out, expected), (found, got) = gradient(plain, x), gradient(ours, x)
    torch.testing.assert_close(found, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_the_gradient_is_the_slope_of_the_output():
    """Against differences, in double precision."""
    _, ours = blocks((2, 3))
    x = image((1, 2, 3, 3, 2))
    assert torch.autograd.gradcheck(ours, (x,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_in_single_precision_outputs_are_equal_bit_for_bit(batch):
    plain, ours = blocks(dtype=torch.float32)
    for block in (plain, ours):
        quicken_convolutions(block)
    x = image((batch, 5, 8, 8, 8), torch.float32)
    (out, expected), (found, got) = gradient(plain, x), gradient(ours, x)
    assert torch.equal(out, found)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [(5, 3), (4, 4)], ids=["another number of channels", "as many channels"])
def test_as_part_of_a_whole_output_and_gradient_are_those_of_corrected_normalisations(channels):
    """Against PyTorch's own backward pass through each of them; gains and shifts as patches of hemispheres have."""
    plain, ours = blocks(channels)
    x = image((2, channels[0], 6, 5, 4))
    generator = torch.Generator().manual_seed(3)
    told = {}
    for name in ("norm1", "norm2", *(["norm3"] if ours.downsample else [])):
        gain = 0.4 + torch.rand((2, channels[1]), generator=generator, dtype=torch.float64)
        shift = torch.randn((2, channels[1]), generator=generator, dtype=torch.float64) / 3
        told[name] = torch.stack([gain, shift], dim=1)
    for block in (plain, ours):
        part_norms(block)
    without = ours(x).detach()
    with as_part(plain, told), as_part(ours, told):
        (out, expected), (found, got) = gradient(plain, x), gradient(ours, x)
        assert torch.autograd.gradcheck(ours, (x,), eps=1e-6, atol=1e-5)
    assert (out - without).abs().max() > 0.1
    torch.testing.assert_close(found, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def held(block, x):
    """Bytes that the backward pass of a block holds beside its weights."""
    own = {p.data_ptr() for p in block.parameters()}
    found = {}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(x)  # noqa: F841  what is held lives as long as the output
    return sum(found.values())


def test_it_holds_three_values_and_not_its_input():
    plain, ours = blocks((8, 4), dtype=torch.float32)
    x = image((2, 8, 8, 8, 8), torch.float32)
    value = 2 * 4 * 8**3 * 4
    assert 3 * value <= held(ours, x) < 3.1 * value
    assert held(plain, x) >= 7 * value


@pytest.mark.parametrize("trains", ["conv1.conv", "conv3.conv"])
def test_a_block_that_trains_gets_the_gradients_of_its_weights(trains):
    plain, ours = blocks()
    x = image((2, 5, 4, 4, 4))
    for block in (plain, ours):
        block.get_submodule(trains).requires_grad_(requires_grad=True)
        block(x).square().sum().backward()
    expected, got = (block.get_submodule(trains).weight.grad for block in (plain, ours))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"norm": ("batch", {})}, {"norm": ("instance", {"affine": True})}, {"dropout": 0.2}],
    ids=str,
)
def test_blocks_of_another_kind_are_left_to_monai(options):
    blocks(lean=False, **options)


def test_what_cannot_be_normalised_is_refused_as_monai_refuses_it():
    plain, ours = blocks()
    for block in (plain, ours):
        with pytest.raises(ValueError, match="Expected more than 1 spatial element"):
            block(image((1, 5, 1, 1, 1)))


def test_in_a_pass_without_gradients_nothing_is_different():
    plain, ours = blocks()
    x = image((2, 5, 4, 4, 4))
    with torch.no_grad():
        assert torch.equal(plain(x), ours(x))
        assert not ours(x).requires_grad


def test_under_autocast_it_computes_in_bfloat16_as_monais_does():
    plain, ours = blocks(dtype=torch.float32)
    x = image((2, 5, 4, 4, 4), torch.float32)
    results = []
    for block in (plain, ours):
        with torch.autocast("cpu", torch.bfloat16):
            out = block(x)
        (found,) = torch.autograd.grad(out.float().square().sum() + out.float().sum(), x)
        results.append((out, found))
    (out, expected), (found, got) = results
    assert found.dtype == out.dtype == torch.bfloat16
    torch.testing.assert_close(found, out, rtol=0.02, atol=0.02)
    assert (got - expected).norm() < 0.05 * expected.norm()


def trained(*, lean, dropout=0.0, seed=0):
    """Gradients of a step of pairs that let them through, by names of the weights, and the output."""
    network = tiny_network()
    if not lean:
        for module in network.modules():
            module.__class__ = {LeanResBlock: UnetResBlock, LeanSwinBlock: SwinTransformerBlock}.get(
                type(module), type(module)
            )
    prepare(network, "lora", lora=LoraConfig(rank=2, dropout=dropout))
    generator = torch.Generator().manual_seed(4)
    for name, weight in network.named_parameters():
        if ".lora_B." in name:
            weight.data.normal_(std=0.05, generator=generator)
    torch.manual_seed(seed)
    x = torch.rand((2, 4, 64, 32, 32), generator=torch.Generator().manual_seed(1))
    out = network(x)
    (out.logits.square().mean() + out.features.square().mean()).backward()
    return out.logits.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_pairs_get_the_gradients_that_they_get_in_monais_network(dropout):
    """With dropout what is computed once more has to drop the same."""
    (plain, expected), (ours, found) = (trained(lean=lean, dropout=dropout) for lean in (False, True))
    assert torch.equal(plain, ours)
    assert found.keys() == expected.keys()
    for name, gradient_of in expected.items():
        atol = 1e-4 * gradient_of.abs().max().item()
        torch.testing.assert_close(found[name], gradient_of, rtol=0, atol=atol)


def test_names_and_weights_stay_and_blocks_know_their_class():
    network = tiny_network()
    kinds = {type(module) for module in network.modules()}
    assert {LeanResBlock, LeanSwinBlock} <= kinds
    assert not kinds & {UnetResBlock, SwinTransformerBlock}
    before = tensors_of(network)
    lean_blocks(network)
    assert tensors_of(network).keys() == before.keys()
