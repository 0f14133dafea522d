import numpy as np
import pytest
import torch
from autoencoding_builders import (
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
from networks import tensors_of

from napari_pcs.errors import ModelError
from napari_pcs.objectives import find_objective
from napari_pcs.objectives.adversarial import Adversarial


@pytest.fixture
def objective():
    return objective_of(Adversarial, discriminator_channels=8)


@pytest.fixture
def batch(objective):
    return batch_of(objective, phantom_patch())


def judged(objective, image):
    """The discriminator's probability that each piece of an image is real."""
    with torch.no_grad():
        for layer in objective.discriminator.children():
            image = layer(image)
    return 1 / (1 + np.exp(-image.double().numpy()))


def found_of(objective, batch):
    with torch.no_grad():
        return objective.reconstruct(batch).found


def discriminators(objective):
    return {f"discriminator.{name}" for name, _ in objective.discriminator.named_parameters()}


def test_it_is_found_by_its_name():
    assert find_objective("adversarial") is Adversarial


def test_the_discriminator_loss_is_equation_4(objective, batch):
    fake, real = judged(objective, found_of(objective, batch)), judged(objective, batch["image"])
    outcome = objective(batch, "discriminator")
    assert outcome.loss.item() == pytest.approx((-np.log(1 - fake).mean() - np.log(real).mean()) / 2, abs=1e-5)
    accuracy = ((fake < 0.5).mean() + (real > 0.5).mean()) / 2
    assert outcome.figures["accuracy_disc"].item() == pytest.approx(accuracy)


def test_the_generator_loss_is_equations_5_and_6(objective, batch):
    found = found_of(objective, batch)
    similarity, _ = naive_similarity(found[0, 0].double().numpy(), batch["image"][0, 0].double().numpy())
    deceived = -np.log(judged(objective, found)).mean()
    outcome = objective(batch, "generator")
    assert outcome.loss.item() == pytest.approx(1 - similarity + deceived, abs=1e-5)
    assert outcome.figures["loss_rec"].item() == pytest.approx(1 - similarity, abs=1e-5)
    assert outcome.figures["loss_gen"].item() == pytest.approx(deceived, abs=1e-5)
    assert outcome.figures["ssim"].item() == pytest.approx(similarity, abs=1e-5)


def test_a_step_of_the_discriminator_moves_it_alone(objective, batch):
    before = tensors_of(objective)
    step(objective, batch, "discriminator")
    assert moved(objective, before) == discriminators(objective)


def test_a_step_of_the_generator_moves_the_body_and_the_head_that_reads_the_image_alone(objective, batch):
    before = tensors_of(objective)
    step(objective, batch, "generator")
    assert moved(objective, before) == encoder_and_decoder(objective) | {"to_image.weight", "to_image.bias"}


@pytest.mark.parametrize("turn", ["discriminator", "generator"])
def test_only_the_weights_of_a_turn_get_gradients(objective, batch, turn):
    objective(batch, turn).loss.backward()
    touched = {id(p) for p in objective.parameters() if p.grad is not None}
    assert touched == {id(p) for p in objective.parameters_of(turn)}


@pytest.mark.parametrize("turn", ["discriminator", "generator"])
def test_the_loss_of_a_turn_falls_on_one_patch(objective, batch, turn):
    losses = [step(objective, batch, turn, rate=1e-3) for _ in range(6)]
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.parametrize("turn", ["discriminator", "generator"])
def test_a_batch_is_the_mean_of_its_halves(objective, turn):
    batch = batch_of(objective, phantom_patch(), random_patch())
    halves = part_of(batch, 0, 1), part_of(batch, 1, 2)
    with torch.no_grad():
        whole, *parts = (objective(b, turn).loss.item() for b in (batch, *halves))
    assert whole == pytest.approx(np.mean(parts), abs=1e-5)
    at_once, apart = gradients(objective, turn, batch), gradients(objective, turn, *halves)
    # Rounding grows where a normalisation sees two voxels only; in double precision this is 1e-13.
    assert (at_once - apart).norm() < 2e-2 * at_once.norm()


@pytest.mark.parametrize(
    ("cadence", "expected"),
    [(1, ["DG", "G", "DG", "G", "DG"]), (2, ["DG", "G", "D", "G", "DG"]), (3, ["DG", "G", "D", "G", "D", "G", "DG"])],
)
def test_turns_follow_the_cadence_without_idle_epochs(objective, cadence, expected):
    objective.config = objective.config_class(cadence=cadence)
    letters = {"discriminator": "D", "generator": "G"}
    assert ["".join(letters[t] for t in objective.turns(epoch)) for epoch in range(len(expected))] == expected


def test_turns_name_every_weight_that_trains_once(objective):
    named = [id(p) for turn in objective.all_turns() for p in objective.parameters_of(turn)]
    assert len(named) == len(set(named))
    assert set(named) == {id(p) for p in objective.parameters() if p.requires_grad}


def test_a_turn_that_there_is_not_is_refused(objective, batch):
    with pytest.raises(ModelError, match="found the turn main, expected one of: discriminator, generator"):
        objective(batch, "main")
