import pytest
import torch
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import WindowAttention, compute_mask
from networks import random_image, tiny_network

from napari_pcs.models.attention import FusedWindowAttention, attend, attend_by_rows, fuse_attention, window_regions

CPU = torch.device("cpu")
SIDES, SHIFT = (8, 4, 4), (2, 0, 2)
"""Two windows of 4 x 4 x 4 tokens of an image, of which one axis is not shifted."""


def attention_pair(heads=3, channels=12, window=(4, 4, 4), dtype=torch.float64, seed=0):
    """MONAI's attention, and ours with the same weights."""
    torch.manual_seed(seed)
    monai = WindowAttention(channels, heads, window, qkv_bias=True).to(dtype)
    torch.nn.init.normal_(monai.relative_position_bias_table)
    ours = WindowAttention(channels, heads, window, qkv_bias=True).to(dtype)
    ours.load_state_dict(monai.state_dict())
    fuse_attention(ours)
    assert type(ours) is FusedWindowAttention
    return monai, ours


def gradients(attention, tokens, mask):
    """Output, and gradients of the tokens and of all weights for a loss that weighs outputs unevenly."""
    tokens = tokens.clone().requires_grad_()
    attention.zero_grad()
    out = attention(tokens, mask)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), tokens.grad, *(p.grad.clone() for p in attention.parameters())]


def tokens_of(windows, n, channels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn((windows, n, channels), generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ("sides", "window", "shift"),
    [
        ((8, 4, 4), (4, 4, 4), (2, 2, 2)),
        ((8, 4, 12), (4, 4, 4), (2, 0, 2)),
        ((14, 7, 7), (7, 7, 7), (3, 3, 3)),
        ((4, 6, 2), (4, 3, 2), (0, 1, 0)),
    ],
)
def test_regions_part_the_tokens_that_monais_mask_parts(sides, window, shift):
    regions = window_regions(sides, window, shift, CPU)
    apart = (regions[:, :, None] != regions[:, None, :]) * -100.0
    torch.testing.assert_close(apart, compute_mask(list(sides), window, shift, CPU))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "channels"), [(3, 12), (2, 16), (1, 12), (2, 12)])
def test_outputs_and_gradients_are_monais(masked, heads, channels):
    monai, ours = attention_pair(heads, channels)
    mask, regions = compute_mask(list(SIDES), (4, 4, 4), SHIFT, CPU), window_regions(SIDES, (4, 4, 4), SHIFT, CPU)
    tokens = tokens_of(2 * len(regions), 64, channels)
    expected = gradients(monai, tokens, mask.double() if masked else None)
    found = gradients(ours, tokens, regions if masked else None)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masked", [False, True])
def test_single_precision_is_as_near_to_double_precision_as_monais_own(masked):
    window, sides, shift = (7, 7, 7), (14, 7, 7), (3, 3, 3)
    exact, _ = attention_pair(window=window)
    monai, ours = attention_pair(window=window, dtype=torch.float32)
    for single in (monai, ours):
        single.load_state_dict(exact.state_dict())
    mask, regions = compute_mask(list(sides), window, shift, CPU), window_regions(sides, window, shift, CPU)
    tokens = tokens_of(4, 343, 12)
    truth = gradients(exact, tokens, mask.double() if masked else None)
    usual = gradients(monai, tokens.float(), mask if masked else None)
    found = gradients(ours, tokens.float(), regions if masked else None)
    for a, b, c in zip(found, usual, truth, strict=True):
        assert (a - c).norm() <= 2 * (b - c).norm() + 1e-6 * c.norm()


def test_windows_smaller_than_the_table_was_made_for_use_its_first_rows_as_monais_do():
    monai, ours = attention_pair()
    tokens = tokens_of(2, 27, 12)
    for a, b in zip(gradients(ours, tokens, None), gradients(monai, tokens, None), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_finite_differences(masked):
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn((4, 6, 3, 2, 3), generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn((9, 2), generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(9, (6, 6), generator=generator)
    regions = torch.tensor([[0, 0, 1, 1, 1, 2], [0] * 6], dtype=torch.int8) if masked else None
    assert torch.autograd.gradcheck(lambda q, t: attend_by_rows(q, t, index, regions, 0.6), (qkv, table))


@pytest.mark.parametrize("masked", [False, True])
def test_pytorchs_fused_attention_gives_the_same_outputs_and_gradients(masked):
    generator = torch.Generator().manual_seed(4)
    qkv = torch.randn((4, 64, 3, 3, 4), generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn((343, 3), generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(343, (64, 64), generator=generator)
    regions = window_regions(SIDES, (4, 4, 4), SHIFT, CPU) if masked else None
    weight = torch.randn((4, 64, 3, 4), generator=generator, dtype=torch.float64)
    rows = attend_by_rows(qkv, table, index, regions, 0.5)
    fused = attend(qkv, table[index].permute(2, 0, 1), regions, 0.5)
    torch.testing.assert_close(rows, fused)
    for a, b in zip(
        torch.autograd.grad((rows * weight).sum(), (qkv, table)),
        torch.autograd.grad((fused * weight).sum(), (qkv, table)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_half_precision_pads_channels_without_changing_the_result():
    qkv = torch.randn((2, 8, 3, 2, 4), generator=torch.Generator().manual_seed(5)).bfloat16()
    bias = torch.randn((2, 8, 8), generator=torch.Generator().manual_seed(6)).bfloat16()
    half, full = attend(qkv, bias, None, 0.5), attend(qkv.float(), bias.float(), None, 0.5)
    assert half.shape == full.shape == (2, 8, 2, 4)
    torch.testing.assert_close(half.float(), full, atol=3e-2, rtol=3e-2)


def test_the_number_of_threads_does_not_change_the_result():
    _, ours = attention_pair(dtype=torch.float32)
    tokens = tokens_of(6, 64, 12, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = gradients(ours, tokens, None)
        torch.set_num_threads(5)
        together = gradients(ours, tokens, None)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b)


def test_very_large_scores_do_not_overflow():
    monai, ours = attention_pair(dtype=torch.float32)
    tokens = 300 * tokens_of(2, 64, 12, torch.float32)
    found, expected = gradients(ours, tokens, None), gradients(monai, tokens, None)
    assert all(a.isfinite().all() for a in found)
    torch.testing.assert_close(found[0], expected[0], atol=1e-3, rtol=1e-3)


def test_a_number_that_is_none_shows_in_its_window_only():
    _, ours = attention_pair(dtype=torch.float32)
    tokens = tokens_of(2, 64, 12, torch.float32)
    tokens[1, 5, 0] = float("nan")
    out = ours(tokens, None)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


def test_outputs_are_the_same_with_and_without_gradients():
    _, ours = attention_pair(dtype=torch.float32)
    tokens = tokens_of(2, 64, 12, torch.float32)
    with torch.inference_mode():
        without = ours(tokens, None)
    torch.testing.assert_close(ours(tokens, None), without, atol=0, rtol=0)


@pytest.mark.parametrize("window_size", [4, 7])
def test_a_network_trains_as_monais_with_the_same_weights(window_size):
    ours = tiny_network(window_size=window_size).backbone
    monai = SwinUNETR(in_channels=4, out_channels=2, feature_size=12, window_size=window_size).eval()
    assert list(monai.state_dict()) == list(ours.state_dict())
    monai.load_state_dict(ours.state_dict())
    image = torch.cat([random_image((64, 32, 32), seed=seed) for seed in (1, 2)])
    for network in (ours, monai):
        network(image).square().mean().backward()
    torch.testing.assert_close(ours(image), monai(image), atol=1e-4, rtol=1e-4)
    for (name, a), b in zip(ours.named_parameters(), monai.parameters(), strict=True):
        # Instance normalisation of a bottleneck of two voxels makes much of rounding.
        assert (a.grad - b.grad).norm() <= 1e-2 * b.grad.norm() + 1e-7, name


def test_mixed_precision_trains_with_finite_gradients():
    network = tiny_network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(random_image((64, 32, 32))).logits
    logits.float().square().mean().backward()
    swin = network.backbone.swinViT
    assert all(p.grad.isfinite().all() for p in swin.layers1.parameters())
