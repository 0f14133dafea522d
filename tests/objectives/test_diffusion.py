import numpy as np
import pytest
import torch
from autoencoding_builders import (
    batch_of,
    encoder_and_decoder,
    gradients,
    moved,
    part_of,
    phantom_patch,
    random_patch,
    step,
)
from denoisers import tiny_denoiser
from monai.losses import SSIMLoss
from networks import tensors_of, tiny_network
from pydantic import ValidationError

from napari_pcs.data.patch import Patch
from napari_pcs.errors import InputError, ModelError
from napari_pcs.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from napari_pcs.objectives import find_objective
from napari_pcs.objectives.diffusion import Diffusion, DiffusionConfig

SIZE = (16, 12, 16)


def objective_of(seed=0, network=None, **settings):
    """Diffusion on a tiny network, ready to train."""
    network = network or tiny_denoiser(seed)
    torch.manual_seed(seed)
    return Diffusion(network, DiffusionConfig(**settings)).train()


def fold_patch():
    """Small piece of the phantom's medial wall."""
    whole = phantom_patch()
    box = (slice(None), *(slice(4, 4 + n) for n in SIZE))
    return Patch(np.ascontiguousarray(whole.image[box]), np.ascontiguousarray(whole.position[box]), whole.source)


def two_patches():
    return fold_patch(), random_patch(size=SIZE)


def kept(time):
    """The schedule's closed form, in double precision."""
    betas = np.linspace(np.sqrt(5e-3), np.sqrt(2e-2), 1000) ** 2
    return np.cumprod(1 - betas)[time]


def test_it_is_found_by_its_name_and_has_the_published_settings():
    assert find_objective("diffusion") is Diffusion
    config = DiffusionConfig()
    assert (config.schedule, config.beta_start, config.beta_end) == ("scaled_linear", 5e-3, 2e-2)
    assert config.inference_steps == 25


# The loss


@pytest.mark.parametrize(("loss", "share"), [("noise", 0), ("ssim", 1), ("both", 0.3)])
def test_the_loss_is_that_of_the_noise_or_of_the_image_that_follows_from_it(loss, share):
    objective = objective_of(loss=loss, ssim_share=0.3)
    batch = batch_of(objective, *two_patches())
    with torch.no_grad():
        outcome = objective(batch)
        squares, similarities = [], []
        for i in range(2):
            image, noise, time = (batch[k][i : i + 1] for k in ("image", "noise", "timestep"))
            a = kept(time.item())
            noisy = np.sqrt(a) * (2 * image - 1) + np.sqrt(1 - a) * noise
            found = objective.network.denoise(noisy.float(), time)
            squares.append(((found - noise) ** 2).mean().item())
            clean = ((noisy - np.sqrt(1 - a) * found) / np.sqrt(a)).clamp(-1, 1)
            similarities.append(1 - SSIMLoss(3, win_size=11, kernel_sigma=1.5)((clean.float() + 1) / 2, image).item())
    assert outcome.figures["noise_mse"].item() == pytest.approx(np.mean(squares), rel=1e-4)
    assert outcome.figures["ssim"].item() == pytest.approx(np.mean(similarities), abs=1e-3)
    expected = (1 - share) * np.mean(squares) + share * (1 - np.mean(similarities))
    assert outcome.loss.item() == pytest.approx(expected, abs=1e-3)


def test_a_new_network_finds_no_noise_and_its_loss_is_the_noises_own_variance():
    objective = objective_of(network=DiffusionUNet(DiffusionUNetConfig(channels=(8, 8, 16), groups=4, head_channels=8)))
    batch = batch_of(objective, *two_patches())
    assert objective(batch).loss.item() == pytest.approx(batch["noise"].square().mean().item(), rel=1e-6)


@pytest.mark.parametrize("loss", ["noise", "ssim"])
@pytest.mark.parametrize("condition", ["none", "position"])
def test_a_step_moves_stem_encoder_decoder_and_what_reads_the_place_and_no_head(loss, condition):
    objective = objective_of(loss=loss, condition=condition)
    batch = batch_of(objective, *two_patches())
    batch["timestep"] = torch.tensor([40, 300])
    if condition == "position":
        batch["conditioned"] = torch.tensor([True, False])
    before = tensors_of(objective)
    step(objective, batch, "main")
    own = {n for n, _ in objective.named_parameters() if n.startswith("place_tokens")}
    assert moved(objective, before) == encoder_and_decoder(objective) | own
    assert bool(own) == (condition == "position")


@pytest.mark.parametrize("loss", ["noise", "both"])
def test_the_loss_falls_on_one_patch(loss):
    network = DiffusionUNet(DiffusionUNetConfig(channels=(8, 8, 16), groups=4, head_channels=8))
    objective = objective_of(network=network, loss=loss)
    batch = batch_of(objective, fold_patch())
    optimiser = torch.optim.Adam(objective.parameters_of("main"), lr=5e-3)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        value = objective(batch).loss
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("condition", ["none", "position"])
@pytest.mark.parametrize("loss", ["noise", "ssim"])
def test_a_batch_is_the_mean_of_its_halves(condition, loss):
    objective = objective_of(condition=condition, loss=loss)
    batch = batch_of(objective, *two_patches())
    halves = part_of(batch, 0, 1), part_of(batch, 1, 2)
    whole = objective(batch).loss.item()
    assert whole == pytest.approx(np.mean([objective(half).loss.item() for half in halves]), rel=1e-5)
    together, apart = gradients(objective, "main", batch), gradients(objective, "main", *halves)
    torch.testing.assert_close(apart, together, atol=1e-5 * float(together.abs().max()), rtol=1e-3)


# What the network is told


@pytest.mark.parametrize("condition", ["none", "position"])
@pytest.mark.parametrize("position", [True, False])
def test_the_clean_image_reaches_the_network_by_the_noisy_one_alone(monkeypatch, condition, position):
    objective = objective_of(network=tiny_denoiser(position=position), condition=condition, condition_dropout=0)
    batch = batch_of(objective, *two_patches())
    noisy = objective.schedule.add_noise(2 * batch["image"] - 1, batch["noise"], batch["timestep"])
    monkeypatch.setattr(objective.schedule, "add_noise", lambda *_: noisy)
    denoise, found = objective.network.denoise, []
    monkeypatch.setattr(objective.network, "denoise", lambda *given: found.append(denoise(*given)) or found[-1])
    other = {**batch, "image": 1 - batch["image"], "noise": -batch["noise"]}
    with torch.no_grad():
        losses = [objective(b).loss for b in (batch, other)]
        objective.estimate(noisy, batch["timestep"], {k: v for k, v in batch.items() if k not in ("image", "noise")})
    assert losses[0] != losses[1]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("condition", ["none", "position"])
def test_all_of_a_sample_but_the_image_is_the_same_for_another_image(condition):
    one, config = fold_patch(), DiffusionConfig(condition=condition)
    other = Patch(1 - one.image, one.position, "other")
    first, second = (Diffusion.sample(p, SIZE, config, np.random.default_rng(3)) for p in (one, other))
    assert not np.array_equal(first["image"], second["image"])
    assert first.keys() == second.keys()
    for name in first.keys() - {"image"}:
        assert np.array_equal(first[name], second[name]), name


def test_the_same_generator_gives_the_same_sample_and_another_one_another():
    config = DiffusionConfig(condition="position")
    first, again, other = (
        Diffusion.sample(fold_patch(), SIZE, config, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["noise"], other["noise"])
    assert first["timestep"] != other["timestep"]


def test_noise_time_steps_and_conditions_are_drawn_as_they_should_be():
    config, rng = DiffusionConfig(condition="position", condition_dropout=0.25), np.random.default_rng(0)
    patch = random_patch(size=(4, 4, 4))
    samples = [Diffusion.sample(patch, (4, 4, 4), config, rng) for _ in range(2000)]
    times = np.array([s["timestep"] for s in samples])
    assert times.min() < 5
    assert times.max() > 994
    assert times.mean() == pytest.approx(499.5, abs=30)
    assert np.mean([s["conditioned"] for s in samples]) == pytest.approx(0.75, abs=0.04)
    noise = np.stack([s["noise"] for s in samples])
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_the_place_is_told_where_it_is_the_condition_and_held_back_where_it_is_dropped():
    objective = objective_of(condition="position")
    batch = batch_of(objective, *two_patches())
    np.testing.assert_allclose(batch["place"][0], fold_patch().position.mean(axis=(1, 2, 3)), rtol=1e-5)
    noisy, times = torch.randn((2, 1, *SIZE)), torch.tensor([100, 100])

    def estimates(place, told):
        known = {**batch, "place": place, "conditioned": torch.tensor([told, told])}
        with torch.no_grad():
            return objective.estimate(noisy, times, known)

    near, far = batch["place"], batch["place"] + 0.5
    assert not torch.allclose(estimates(near, told=True), estimates(far, told=True), atol=1e-4)
    assert torch.equal(estimates(near, told=False), estimates(far, told=False))
    with torch.no_grad():
        torch.testing.assert_close(estimates(near, told=False), objective.network.denoise(noisy, times))


def test_a_place_as_condition_needs_a_network_that_takes_one_and_a_patch_that_has_one():
    with pytest.raises(ModelError, match=r"without cross-attention.*Choose condition none"):
        objective_of(network=tiny_denoiser(cross_attention_dim=None), condition="position")
    nowhere = Patch(fold_patch().image, None, "a")
    with pytest.raises(InputError, match="expected one with a position"):
        Diffusion.sample(nowhere, SIZE, DiffusionConfig(condition="position"), np.random.default_rng(0))
    assert "position" not in Diffusion.sample(nowhere, SIZE, DiffusionConfig(), np.random.default_rng(0))


def test_a_network_that_is_no_denoiser_is_refused():
    with pytest.raises(ModelError, match=r"swin_unetr .*expected a 3-D DiffusionUNet"):
        Diffusion(tiny_network(), DiffusionConfig())


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"beta_start": 0.03}, "more than beta_start"),
        ({"train_steps": 20}, "no more than the 20"),
        ({"picture_step": 1000}, "no more than the 1000"),
        ({"condition": "image"}, "condition"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(wrong, match):
    with pytest.raises(ValidationError, match=match):
        DiffusionConfig(**wrong)


# The way back


def test_who_knows_the_noise_restores_the_patch(monkeypatch):
    objective = objective_of()
    batch = batch_of(objective, *two_patches())
    monkeypatch.setattr(objective, "estimate", lambda *_: batch["noise"])
    noisy, clean, restored = objective.picture(batch).unbind(dim=1)
    torch.testing.assert_close(clean, batch["image"][:, 0])
    torch.testing.assert_close(restored, clean, atol=1e-3, rtol=0)
    a = kept(250)
    expected = np.sqrt(a) * (2 * batch["image"] - 1) + np.sqrt(1 - a) * batch["noise"]
    torch.testing.assert_close(2 * noisy - 1, expected[:, 0].float(), atol=1e-4, rtol=0)


def test_restoring_asks_the_network_at_each_step_of_the_way_for_the_noise_of_that_step(monkeypatch):
    objective = objective_of(inference_steps=5)
    asked = []
    monkeypatch.setattr(objective.network, "denoise", lambda noisy, at, _: asked.append(at.tolist()) or noisy * 0)
    objective.restore(torch.zeros((2, 1, *SIZE)), 600, {})
    assert asked == [[600] * 2, [500] * 2, [250] * 2, [0] * 2]


def test_a_picture_is_the_same_every_time_and_follows_the_network():
    objective = objective_of(inference_steps=3)
    batch = batch_of(objective, *two_patches())
    one, again = objective.picture(batch), objective.picture(batch)
    assert one.shape == (2, 3, *SIZE)
    assert one.isfinite().all()
    assert torch.equal(one, again)
    other = objective_of(seed=1, inference_steps=3).picture(batch)
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.equal(one[:, 2], other[:, 2])
    assert one[:, 2].min() >= 0
    assert one[:, 2].max() <= 1


def test_segmentation_sees_the_range_that_denoising_was_trained_in():
    objective = objective_of()
    seen = []
    objective.network.backbone.conv_in.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = batch_of(objective, fold_patch())
    batch["noise"], batch["timestep"] = torch.zeros_like(batch["noise"]), torch.tensor([0])
    with torch.no_grad():
        objective(batch)
        objective.network(batch["image"])
    torch.testing.assert_close(seen[0], np.sqrt(kept(0)) * seen[1])
