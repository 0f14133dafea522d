import numpy as np
import pytest
import torch
from monai.losses import ContrastiveLoss, SSIMLoss
from networks import tiny_network
from phantom_patches import SIZE, PlainNetwork, batch_of, loss_of, moved_by_one_step, part_of, phantom_patches, step

from napari_pcs.errors import ModelError
from napari_pcs.objectives.contrastive import Contrastive, ContrastiveConfig

CONFIG = ContrastiveConfig(projected_channels=16)


@pytest.fixture(scope="module")
def batch():
    return batch_of(Contrastive, phantom_patches(3), SIZE, CONFIG)


def test_a_sample_is_a_patch_and_two_copies_that_are_damaged_differently():
    (patch,) = phantom_patches(1)
    sample = Contrastive.sample(patch, SIZE, CONFIG, np.random.default_rng(0))
    np.testing.assert_array_equal(sample["image"], patch.image)
    hidden = [sample[name] != patch.image for name in ("given", "other")]
    assert all(0.1 < h.mean() < 0.4 for h in hidden)
    assert (hidden[0] != hidden[1]).mean() > 0.1


def test_the_loss_is_the_weighted_sum_of_ssim_and_contrast(batch):
    config = CONFIG.model_copy(update={"reconstruction_weight": 0.5, "contrastive_weight": 3.0})
    objective = Contrastive(tiny_network(), config).eval()
    with torch.no_grad():
        loss, figures, embedding = loss_of(objective, batch)
        found = [objective.reconstruct({"given": batch[name]}).found for name in ("given", "other")]
        projected = [objective.projector(view) for view in embedding.unbind(1)]
    reconstruction = np.mean([SSIMLoss(3, win_size=11)(f, batch["image"]).item() for f in found])
    contrast = ContrastiveLoss(temperature=config.temperature)(*projected).item()
    # In single precision MONAI's own is off by up to 4e-4 where tissue is flat.
    assert figures["loss_rec"].item() == pytest.approx(reconstruction, abs=1e-3)
    assert figures["ssim"].item() == pytest.approx(1 - figures["loss_rec"].item(), abs=1e-6)
    assert figures["loss_con"].item() == pytest.approx(contrast, rel=1e-4)
    assert loss.item() == pytest.approx(0.5 * figures["loss_rec"].item() + 3 * contrast, rel=1e-4)


def test_the_order_of_the_samples_and_of_the_copies_does_not_matter(batch):
    objective = Contrastive(tiny_network(), CONFIG).eval()
    with torch.no_grad():
        loss, _, _ = loss_of(objective, batch)
        permuted, _, _ = loss_of(objective, {name: t[[2, 0, 1]] for name, t in batch.items()})
        swapped, _, _ = loss_of(objective, {**batch, "given": batch["other"], "other": batch["given"]})
    torch.testing.assert_close(permuted, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(swapped, loss, rtol=1e-4, atol=1e-5)


def test_where_a_patch_lies_does_not_answer_for_it(batch):
    objective = Contrastive(tiny_network(position=True), CONFIG).eval()
    assert "position" not in batch
    seen = []
    objective.network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    objective.network.backbone.encoder1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        objective(batch)
    assert seen[0].shape[1] == 4
    assert not seen[0][:, 1:].any()


def test_a_step_moves_encoder_decoder_and_own_heads_and_never_the_networks(batch):
    network = tiny_network()
    objective = Contrastive(network, CONFIG)
    moved, with_gradient = moved_by_one_step(objective, batch)
    assert moved == with_gradient
    own = {name for name in moved if not name.startswith("network.")}
    trainable = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert own == {name for name in trainable if not name.startswith("network.")}
    of_network = {name.removeprefix("network.") for name in moved - own}
    assert of_network == {n for n, _ in network.named_parameters() if part_of(network, n) != "heads"}


def test_the_embedding_and_the_loss_of_a_sample_are_the_same_in_a_batch_and_alone(batch):
    objective = Contrastive(tiny_network(), CONFIG)
    with torch.no_grad():
        together = objective(batch)
        apart = [objective({name: t[i : i + 1] for name, t in batch.items()}) for i in range(3)]
    torch.testing.assert_close(torch.cat([a.embedding for a in apart]), together.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack([a.loss for a in apart]).mean(), together.loss, rtol=1e-4, atol=1e-5)


def test_both_losses_fall_on_phantom_patches(batch):
    torch.manual_seed(0)
    batch = {name: t[:2] for name, t in batch.items()}
    objective = Contrastive(tiny_network(), CONFIG).train()
    optimiser = torch.optim.Adam(objective.parameters_of("main"), lr=1e-3)
    with torch.no_grad():
        _, before, _ = loss_of(objective, batch)
    for _ in range(5):
        step(objective, optimiser, batch)
    with torch.no_grad():
        _, after, _ = loss_of(objective, batch)
    assert after["loss_rec"] < before["loss_rec"] - 0.1
    assert after["loss_con"] < before["loss_con"] - 0.1


def test_a_picture_shows_what_was_given_looked_for_and_found(batch):
    objective = Contrastive(tiny_network(), CONFIG).eval()
    picture = objective.picture(batch)
    assert picture.shape == (3, 3, *SIZE)
    torch.testing.assert_close(picture[:, 0], batch["given"][:, 0])
    torch.testing.assert_close(picture[:, 1], batch["image"][:, 0])


def test_a_network_without_a_decoder_is_refused():
    with pytest.raises(ModelError, match="expected a 3-D Segmenter"):
        Contrastive(PlainNetwork(3), CONFIG)
