import numpy as np
import pytest
import torch
from autoencoding_builders import (
    SIZE,
    batch_of,
    encoder_and_decoder,
    gradients,
    moved,
    naive_similarity,
    objective_of,
    part_of,
    phantom_patch,
    random_patch,
    step,
)
from networks import tensors_of, tiny_network

from napari_pcs.data.patch import Patch
from napari_pcs.objectives import find_objective
from napari_pcs.objectives.reconstruction import Reconstruction


@pytest.fixture
def objective():
    return objective_of(Reconstruction)


def test_it_is_found_by_its_name():
    assert find_objective("reconstruction") is Reconstruction


def test_the_loss_is_one_minus_the_similarity_with_the_whole_image(objective):
    batch = batch_of(objective, phantom_patch())
    with torch.no_grad():
        image = torch.cat([batch["given"], batch["position"]], dim=1)
        decoded = objective.network.decode(objective.network.encode(image))
        found = 1 / (1 + torch.exp(-objective.to_image(decoded)))
        outcome = objective(batch)
    similarity, _ = naive_similarity(found[0, 0].double().numpy(), batch["image"][0, 0].double().numpy())
    assert outcome.loss.item() == pytest.approx(1 - similarity, abs=1e-5)
    assert outcome.figures["ssim"].item() == pytest.approx(similarity, abs=1e-5)
    assert outcome.figures["l1"].item() == pytest.approx((found - batch["image"]).abs().mean().item(), abs=1e-6)


def test_a_step_moves_the_body_and_the_head_that_reads_the_image_and_nothing_else(objective):
    before = tensors_of(objective)
    step(objective, batch_of(objective, phantom_patch()), "main")
    assert moved(objective, before) == encoder_and_decoder(objective) | {"to_image.weight", "to_image.bias"}


def test_the_loss_falls_on_one_patch(objective):
    batch = batch_of(objective, phantom_patch())
    losses = [step(objective, batch, "main", rate=5e-3) for _ in range(6)]
    assert losses[-1] < losses[0] - 0.02


def test_a_batch_is_the_mean_of_its_halves(objective):
    batch = batch_of(objective, phantom_patch(), random_patch())
    halves = part_of(batch, 0, 1), part_of(batch, 1, 2)
    with torch.no_grad():
        whole, *parts = (objective(b).loss.item() for b in (batch, *halves))
    assert whole == pytest.approx(np.mean(parts), abs=1e-6)
    at_once, apart = gradients(objective, "main", batch), gradients(objective, "main", *halves)
    # Rounding grows where a normalisation sees two voxels only; in double precision this is below 1e-5.
    assert (at_once - apart).norm() < 2e-3 * at_once.norm()


def test_a_picture_shows_what_was_given_looked_for_and_found(objective):
    batch = batch_of(objective, phantom_patch(), random_patch())
    picture = objective.picture(batch)
    assert picture.shape == (2, 3, *SIZE)
    assert torch.equal(picture[:, :1], batch["given"])
    assert torch.equal(picture[:, 1:2], batch["image"])
    assert picture[:, 2].min() >= 0
    assert picture[:, 2].max() <= 1


def test_a_network_without_position_channels_needs_none():
    torch.manual_seed(0)
    objective = Reconstruction(tiny_network(position=False), Reconstruction.config_class())
    patch = Patch(phantom_patch().image, None, "phantom")
    batch = batch_of(objective, patch)
    assert set(batch) == {"image", "given"}
    assert objective(batch).loss.isfinite()
