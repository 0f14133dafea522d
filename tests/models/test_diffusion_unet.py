from collections import Counter

import pytest
import torch
from denoisers import tiny_denoiser
from networks import random_image, tensors_of
from pydantic import ValidationError

from napari_pcs.errors import InputError
from napari_pcs.models.denoiser_nodes import Told
from napari_pcs.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig, from_diffusion_range
from napari_pcs.models.graph import IMAGE, evaluate
from napari_pcs.models.networks import build_network, parse_network_config
from napari_pcs.strategies import STRATEGIES, prepare

SIDES = (8, 12, 16)
CONDITIONED = [4, None]


@pytest.fixture(scope="module")
def network():
    return tiny_denoiser()


def clean(batch=1, channels=1, seed=0):
    return torch.cat([random_image(SIDES, channels, seed + i) for i in range(batch)])


def monais(network, image, time, condition=None):
    """Return MONAI's own output, and what its output block was given."""
    seen = []
    handle = network.backbone.out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        noise = network.backbone(image, torch.tensor(time), condition)
    handle.remove()
    return noise, seen[0]


@pytest.mark.parametrize("dim", CONDITIONED)
@pytest.mark.parametrize("position", [True, False])
def test_denoising_is_monais_own_forward_pass(dim, position):
    network = tiny_denoiser(cross_attention_dim=dim, position=position)
    noisy = clean(batch=2, channels=4 if position else 1) * 2 - 1
    condition = None if dim is None else torch.randn((2, 3, dim), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = network.denoise(noisy, torch.tensor([3, 700]), condition)
    assert found.shape == (2, 1, *SIDES)
    assert found.std() > 0.01
    assert torch.equal(found, monais(network, noisy, [3, 700], condition)[0])


@pytest.mark.parametrize("dim", CONDITIONED)
def test_encoding_then_decoding_is_monais_pass_at_time_0_up_to_its_output_block_and_beyond(dim):
    network = tiny_denoiser(cross_attention_dim=dim)
    image = clean(batch=2)
    noise, reached = monais(network, image * 2 - 1, [0, 0], network.unconditioned(2))
    with torch.inference_mode():
        decoded = network.decode(network.encode(image))
        features = network.backbone.out[:2](reached)
    assert decoded.shape == (2, network.decoded_channels, *SIDES)
    assert torch.equal(decoded[:, :-1], features)
    assert torch.equal(decoded[:, -1:], noise)


def test_the_encoder_goes_from_full_resolution_to_the_bottleneck(network):
    with torch.inference_mode():
        encoded = network.encode(clean())
    assert encoded[0].shape == (1, 8, *SIDES)
    assert encoded[-1].shape == (1, network.embedding_channels, 2, 3, 4)
    sides = [t.shape[2] for t in encoded]
    assert sides == sorted(sides, reverse=True)


def test_position_channels_are_not_rescaled():
    network = tiny_denoiser(position=True)
    image = clean(channels=4)
    given = torch.cat([image[:, :1] * 2 - 1, image[:, 1:]], dim=1)
    with torch.inference_mode():
        encoded = network.encode(image)
        first = network.backbone.conv_in(given)
    torch.testing.assert_close(encoded[0], first)
    torch.testing.assert_close(from_diffusion_range(given[:, :1]), image[:, :1])


@pytest.mark.parametrize(("dim", "weights"), [(None, 2_975_553), (32, 3_399_105)])
def test_the_published_network_has_the_published_number_of_weights(dim, weights):
    network = DiffusionUNet(DiffusionUNetConfig(cross_attention_dim=dim))
    assert sum(p.numel() for p in network.backbone.parameters()) == weights


@pytest.mark.parametrize("dim", CONDITIONED)
@pytest.mark.parametrize("blocks", [1, 2])
def test_each_weight_is_in_exactly_one_part(dim, blocks):
    network = tiny_denoiser(cross_attention_dim=dim, residual_blocks=blocks)
    covered = Counter(
        f"{name}.{inner}"
        for part in network.parts
        for name, module in network.modules_of(part)
        for inner, _ in module.named_parameters()
    )
    assert covered == Counter({name: 1 for name, _ in network.named_parameters()})


def test_segmenting_and_denoising_both_train_every_weight_of_stem_encoder_and_decoder(network):
    body = {n: p for n, p in network.named_parameters() if "head." not in n}
    noisy = clean(batch=2)
    for loss in (
        network.denoise(noisy, torch.tensor([3, 700])).square().mean(),
        network(noisy).logits.square().mean(),
    ):
        gradients = torch.autograd.grad(loss, list(body.values()), allow_unused=True)
        assert [n for n, g in zip(body, gradients, strict=True) if g is None or not g.any()] == []


@pytest.mark.parametrize("dim", CONDITIONED)
def test_samples_of_a_batch_do_not_influence_each_other(dim):
    network = tiny_denoiser(cross_attention_dim=dim)
    both, times = clean(batch=2), torch.tensor([3, 700])
    with torch.inference_mode():
        torch.testing.assert_close(network(both).logits[1:], network(both[1:]).logits)
        torch.testing.assert_close(network(both).features[1:], network(both[1:]).features)
        torch.testing.assert_close(network.denoise(both, times)[1:], network.denoise(both[1:], times[1:]))


def test_the_time_step_reaches_every_level(network):
    def levels(time):
        told = Told(network._time(torch.tensor([time]), torch.float32), network.unconditioned(1))
        return evaluate(network._nodes(lambda _: told), {IMAGE: clean()}, network.encoded)

    with torch.inference_mode():
        one, other = levels(0), levels(900)
    changes = [float((one[name] - other[name]).abs().max() / one[name].std()) for name in network.encoded]
    assert changes[0] == 0
    assert min(changes[1:]) > 1e-3


def test_a_condition_changes_the_estimate_and_its_absence_is_a_condition_too(network):
    noisy, times = clean(), torch.tensor([500])
    conditions = torch.randn((2, 1, 3, 4), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        none, one, other = (network.denoise(noisy, times, c) for c in (None, *conditions))
        assert torch.equal(none, network.denoise(noisy, times, network.unconditioned(1)))
    assert min((none - one).abs().max(), (one - other).abs().max(), (none - other).abs().max()) > 1e-3


@pytest.mark.parametrize("dim", CONDITIONED)
def test_fused_attention_and_checkpointing_change_neither_output_nor_gradient(dim):
    expected = None
    for options in ({"flash_attention": False}, {"flash_attention": True}, {"gradient_checkpointing": True}):
        network = tiny_denoiser(cross_attention_dim=dim, **options).train()
        logits = network(clean(batch=2)).logits
        logits.square().mean().backward()
        found = [logits, *(p.grad for n, p in network.named_parameters() if "class_head" not in n)]
        expected = expected or found
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("trains", [True, False])
def test_the_encoder_keeps_gradients_only_where_it_trains(trains):
    network = tiny_denoiser().requires_grad_(trains)
    network.segmentation_head.requires_grad_(True)
    assert {t.requires_grad for t in network.encode(clean())} == {trains}
    assert network(clean()).logits.requires_grad


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_strategy_moves_what_it_names_and_nothing_else(strategy):
    network = tiny_denoiser()
    prepare(network, strategy)
    before = tensors_of(network)
    named = {n for n, p in network.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    logits, features = network(clean(batch=2))
    (logits.square().mean() + network.classify(features, torch.tensor([0.0, 900.0])).square().mean()).backward()
    optimiser.step()
    assert {n for n, t in tensors_of(network).items() if not torch.equal(t, before[n])} == named


@pytest.mark.parametrize("sides", [(8, 8, 10), (33, 32, 32)])
def test_an_image_that_cannot_be_halved_twice_is_refused_with_what_would_fit(network, sides):
    with pytest.raises(InputError, match=f"{sides[0]} x .* voxels, expected sides that are multiples of 4"):
        network.encode(random_image(sides, channels=1))
    with pytest.raises(InputError, match="multiples of 4"):
        network.denoise(random_image(sides, channels=1), torch.tensor([0]))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"channels": (32, 33, 64)}, "multiples of the 8 groups"),
        ({"head_channels": 48}, "divisor of 64"),
        ({"attention": (True, False, False)}, "divisor of 32"),
        ({"channels": (32, 64)}, "channels"),
        ({"cross_attention_dim": 0}, "cross_attention_dim"),
        ({"depth": 3}, "depth"),
    ],
)
def test_a_configuration_that_fits_no_network_is_refused(wrong, match):
    with pytest.raises(ValidationError, match=match):
        DiffusionUNetConfig(**wrong)


def test_a_configuration_is_read_back_and_builds_the_network(network):
    again = build_network(parse_network_config(network.config.model_dump_json()))
    assert again.config == network.config
    again.load_state_dict(network.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(clean()).logits, network(clean()).logits)
