"""Patches normalised as parts of wholes: against normalising by hand with the whole's moments."""

import copy

import pytest
import torch
from denoisers import tiny_denoiser
from torch import nn

from napari_pcs.models.field_of_view import as_part, matched, measured, part_norms
from napari_pcs.models.graph import DECODED, IMAGE, evaluate

SIDE, PART = 12, (slice(None), slice(None), slice(2, 8), slice(4, 10), slice(0, 6))


def network(dtype=torch.float64):
    """Every voxel by itself but for the normalisations, so that a part has no borders."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv3d(2, 6, 1),
        nn.InstanceNorm3d(6),
        nn.LeakyReLU(0.1),
        nn.Conv3d(6, 6, 1),
        nn.GroupNorm(3, 6),
        nn.ReLU(),
        nn.InstanceNorm3d(6, affine=True),
        nn.Conv3d(6, 2, 1),
    ).to(dtype)
    with torch.no_grad():
        for norm in (layers[4], layers[6]):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
    part_norms(layers)
    return layers


def image(batch=1, dtype=torch.float64):
    """What a part is not like: noise whose mean and spread grow along every axis."""
    x = torch.randn(batch, 2, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=dtype)
    slope = torch.linspace(0.2, 3, SIDE, dtype=dtype)
    return x * slope[:, None, None] + slope[:, None] * slope


def corrections_of(layers, x, part=PART):
    with torch.no_grad():
        with measured(layers) as moments:
            whole = layers(x)
        with matched(layers, moments) as told:
            layers(x[part])
    return told, whole


def test_a_part_has_the_values_of_the_whole():
    layers, x = network(), image(2)
    told, whole = corrections_of(layers, x)
    assert (layers(x[PART]) - whole[PART]).abs().max() > 0.1
    with as_part(layers, told):
        torch.testing.assert_close(layers(x[PART]), whole[PART], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_one_normalisation_is_that_by_the_moments_of_the_whole(kind):
    norm = nn.InstanceNorm3d(4) if kind == "instance" else nn.GroupNorm(2, 4)
    layers = nn.Sequential(norm).double()
    part_norms(layers)
    x = torch.randn(2, 4, 5, 6, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    told, _ = corrections_of(layers, x, (..., slice(0, 3)))
    sets = [[c] for c in range(4)] if kind == "instance" else [[0, 1], [2, 3]]
    with as_part(layers, told):
        found = layers(x[..., :3])
    for n in range(2):
        for members in sets:
            values = x[n, members]
            expected = (values - values.mean()) / (values.var(correction=0) + norm.eps).sqrt()
            torch.testing.assert_close(found[n, members], expected[..., :3], rtol=0, atol=1e-6)


def test_samples_are_corrected_each_by_its_own():
    layers, x = network(), image(2)
    one, _ = corrections_of(layers, x[:1])
    other, _ = corrections_of(layers, x[1:], (..., slice(6, 12), slice(6, 12), slice(6, 12)))
    batch = torch.cat([x[:1][PART], x[1:, :, 6:, 6:, 6:]])
    with as_part(layers, {name: torch.cat([one[name], other[name]]) for name in one}):
        found = layers(batch)
    for n, told in enumerate((one, other)):
        with as_part(layers, told):
            torch.testing.assert_close(found[n : n + 1], layers(batch[n : n + 1]), rtol=0, atol=1e-6)


def test_corrections_hold_while_weights_grow():
    layers, x = network(), image()
    told, whole = corrections_of(layers, x)
    with torch.no_grad():
        for convolution in (layers[0], layers[3]):
            convolution.weight *= 3
            convolution.bias *= 3
    with as_part(layers, told):
        torch.testing.assert_close(layers(x[PART]), whole[PART], rtol=0, atol=1e-4)


def test_a_whole_is_corrected_by_nothing():
    told, _ = corrections_of(network(), image(), ...)
    for correction in told.values():
        torch.testing.assert_close(correction[:, 0], torch.ones_like(correction[:, 0]), rtol=0, atol=1e-6)
        torch.testing.assert_close(correction[:, 1], torch.zeros_like(correction[:, 1]), rtol=0, atol=1e-6)


def test_without_corrections_results_are_equal_bit_for_bit_to_pytorchs():
    ours = network(torch.float32)
    plain = nn.Sequential(*(copy.deepcopy(layer) for layer in ours))
    for layer in plain:
        if isinstance(layer, (nn.InstanceNorm3d, nn.GroupNorm)):
            layer.__class__ = type(layer).__bases__[0]
    x = image(dtype=torch.float32)
    assert torch.equal(ours(x), plain(x))
    assert list(ours.state_dict()) == list(plain.state_dict())


def test_gradients_are_the_slopes_of_the_output():
    layers, x = network(), image()
    told, _ = corrections_of(layers, x)
    told = {name: t.double() for name, t in told.items()}
    small = x[PART][..., :2, :3, :2].clone().requires_grad_()
    with as_part(layers, told):
        assert torch.autograd.gradcheck(layers, (small,), eps=1e-6, atol=1e-5)


def test_nothing_stays_behind():
    layers, x = network(), image()
    before = layers(x[PART])
    told, _ = corrections_of(layers, x)
    with pytest.raises(RuntimeError, match="channels"), as_part(layers, told):
        layers(x[:, :1])
    assert torch.equal(layers(x[PART]), before)


def test_a_denoiser_that_computes_twice_has_the_gradients_of_one_that_does_not():
    """The second time is in the backward pass, when corrections are no longer in force."""
    x = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    found = []
    for again in (False, True):
        model = tiny_denoiser(gradient_checkpointing=again).train()
        nodes = model.nodes()
        with torch.no_grad():
            with measured(model) as moments:
                evaluate(nodes, {IMAGE: x}, (DECODED,))
            with matched(model, moments) as told:
                evaluate(nodes, {IMAGE: x[..., :4]}, (DECODED,))
        with as_part(model, told):
            decoded = evaluate(nodes, {IMAGE: x[..., :4]}, (DECODED,))[DECODED]
        decoded.square().sum().backward()
        found.append([p.grad for p in model.backbone.up_blocks.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
