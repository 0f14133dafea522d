from collections import Counter

import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention
from networks import random_image, tiny_network
from pydantic import ValidationError

from napari_pcs.models.attention import FusedWindowAttention
from napari_pcs.models.swin_unetr import SwinUNETRConfig


@pytest.fixture(scope="module")
def network():
    return tiny_network()


@pytest.mark.parametrize("feature_size", [12, 24, 36, 48])
def test_the_parts_cover_every_weight_exactly_once(feature_size):
    network = tiny_network(feature_size=feature_size)
    covered = Counter(
        f"{name}.{inner}"
        for part in network.parts
        for name, module in network.modules_of(part)
        for inner, _ in module.named_parameters()
    )
    assert covered == Counter({name: 1 for name, _ in network.named_parameters()})
    assert network.embedding_channels == 16 * feature_size
    assert network.decoded_channels == feature_size


@pytest.mark.parametrize("window_size", [4, 7])
@pytest.mark.parametrize("position", [True, False])
def test_the_output_has_two_channels_on_the_grid_of_the_input(window_size, position):
    network = tiny_network(window_size=window_size, position=position)
    image = random_image((32, 64, 32), channels=4 if position else 1)
    with torch.inference_mode():
        logits, features = network(image)
    assert logits.shape == (1, 2, 32, 64, 32)
    assert features.shape == (1, 16 * 12)
    assert logits.isfinite().all()
    assert logits.std() > 0


def test_encoding_then_decoding_is_the_whole_network_and_monais_own(network):
    image = random_image()
    with torch.inference_mode():
        encoded = network.encode(image)
        whole, parts = network(image), network.segment(network.decode(encoded), network.pool(encoded[-1]))
        monai = network.backbone(image)
        bottleneck = network.backbone.encoder10(network.backbone.swinViT(image, True)[4])
    torch.testing.assert_close(whole.logits, monai)
    torch.testing.assert_close(parts.logits, monai)
    torch.testing.assert_close(whole.features, bottleneck.flatten(2).mean(dim=2))


def test_samples_of_a_batch_do_not_influence_each_other(network):
    one, two = random_image(seed=1), random_image(seed=2)
    with torch.inference_mode():
        both = network(torch.cat([one, two]))
        alone = network(two)
    torch.testing.assert_close(both.logits[1:], alone.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.features[1:], alone.features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("trains", [True, False])
def test_the_encoder_keeps_gradients_only_where_it_trains(network, trains):
    network.requires_grad_(trains)
    network.backbone.out.requires_grad_(True)
    encoded = network.encode(random_image())
    assert {t.requires_grad for t in encoded} == {trains}
    logits = network.segment(network.decode(encoded), network.pool(encoded[-1])).logits
    assert logits.requires_grad
    network.requires_grad_(True)


def gradients_and_memory(**options):
    """Gradients of one step, and how many numbers were kept for the backward pass."""
    network, kept = tiny_network(**options).train(), []

    def count(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        logits, features = network(random_image((64, 32, 32)))
        loss = logits.square().mean() + features.square().mean()
    loss.backward()
    return {name: p.grad for name, p in network.backbone.named_parameters()}, sum(kept)


def test_checkpointing_gives_the_same_gradients_from_less_memory():
    expected, all_kept = gradients_and_memory()
    found, kept = gradients_and_memory(gradient_checkpointing=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert kept < 0.9 * all_kept


def test_checkpointing_leaves_prediction_and_a_frozen_encoder_alone():
    plain, checkpointed = tiny_network(), tiny_network(gradient_checkpointing=True)
    for network in (plain, checkpointed):
        network.requires_grad_(False)
        network.backbone.out.requires_grad_(True)
    image = random_image((64, 32, 32))
    found = checkpointed(image).logits
    torch.testing.assert_close(found, plain(image).logits, atol=0, rtol=0)
    assert found.requires_grad


@pytest.mark.parametrize("flash", [True, False])
def test_fused_attention_is_an_option_that_does_not_change_the_result(network, flash):
    other, image = tiny_network(flash_attention=flash), random_image()
    attentions = [module for module in other.modules() if isinstance(module, WindowAttention)]
    assert [isinstance(module, FusedWindowAttention) for module in attentions] == [flash] * 8
    with torch.inference_mode():
        torch.testing.assert_close(other(image).logits, network(image).logits, atol=1e-5, rtol=1e-4)


def test_a_configuration_from_before_these_options_still_builds_the_same_network():
    old = SwinUNETRConfig.model_validate_json(
        '{"architecture": "swin_unetr", "feature_size": 12, "window_size": 4, "position": true}'
    )
    assert old == SwinUNETRConfig(window_size=4)
    assert (old.flash_attention, old.gradient_checkpointing) == (True, False)


def test_the_class_depends_on_the_features_and_on_the_volume_of_each_hemisphere(network):
    features = torch.randn((3, 192), generator=torch.Generator().manual_seed(0))
    volumes = torch.tensor([0.0, 150.0, 3000.0])
    with torch.inference_mode():
        logits = network.classify(features, volumes)
        assert logits.shape == (3, 3)
        torch.testing.assert_close(logits.flip(0), network.classify(features.flip(0), volumes.flip(0)))
        other_volume = network.classify(features, volumes + 100)
        other_features = network.classify(features.flip(1), volumes)
    assert ((other_volume - logits).abs().amax(dim=1) > 1e-4).all()
    assert ((other_features - logits).abs().amax(dim=1) > 1e-4).all()


def test_the_same_seed_builds_the_same_network_and_another_seed_another():
    one, two, other = (tiny_network(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("wrong", [{"feature_size": 13}, {"window_size": 8}, {"architecture": "unet"}, {"depth": 3}])
def test_a_configuration_that_fits_no_network_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SwinUNETRConfig(**wrong)
