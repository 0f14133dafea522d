import numpy as np
import pytest
import torch
from networks import tiny_network
from phantom_patches import (
    SIZE,
    PlainNetwork,
    batch_of,
    loss_of,
    moved_by_one_step,
    part_of,
    phantom_patches,
    pictures,
    step,
)

from napari_pcs.objectives.nt_xent import nt_xent
from napari_pcs.objectives.simclr import SimCLR, SimCLRConfig

CONFIG = SimCLRConfig(projected_channels=16, temperature=0.5)
PICTURE = (32, 32)


def volumes(count=3):
    return batch_of(SimCLR, phantom_patches(count, SimCLR.region(SIZE, CONFIG)), SIZE, CONFIG)


def images(count=8):
    return batch_of(SimCLR, pictures(count), PICTURE, CONFIG)


@pytest.fixture(scope="module")
def batch():
    return volumes()


def test_a_sample_is_two_different_views_that_only_the_generator_decides():
    (patch,) = phantom_patches(1, SimCLR.region(SIZE, CONFIG))
    first, again, other = (SimCLR.sample(patch, SIZE, CONFIG, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert set(first) == {"views"}
    assert first["views"].shape == (2, 1, *SIZE)
    assert not np.array_equal(*first["views"])
    np.testing.assert_array_equal(first["views"], again["views"])
    assert not np.array_equal(first["views"], other["views"])


def test_the_loss_is_nt_xent_of_all_projections_of_both_views(batch):
    objective = SimCLR(tiny_network(), CONFIG).eval()
    with torch.no_grad():
        _, _, embedding = loss_of(objective, batch)
        projected = torch.stack([objective.projector(view) for view in embedding.unbind(1)], dim=1)
        comparison = objective.compare(embedding)
    torch.testing.assert_close(comparison.loss, nt_xent(projected, CONFIG.temperature))


def test_the_order_of_the_samples_does_not_matter(batch):
    objective = SimCLR(tiny_network(), CONFIG)
    embedding = objective(batch).embedding.detach()
    loss = objective.compare(embedding).loss
    torch.testing.assert_close(objective.compare(embedding[[2, 0, 1]]).loss, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(objective.compare(embedding.flip(1)).loss, loss, rtol=1e-4, atol=1e-5)


def test_a_step_moves_the_encoder_and_the_projector_and_nothing_else(batch):
    network = tiny_network()
    objective = SimCLR(network, CONFIG)
    moved, with_gradient = moved_by_one_step(objective, batch)
    assert moved == with_gradient
    of_network = {name.removeprefix("network.") for name in moved if name.startswith("network.")}
    assert {part_of(network, name) for name in of_network} == {"stem", "encoder"}
    embedded = tuple(f"backbone.{name}" for name in ("swinViT.patch_embed", "swinViT.layers", "encoder10"))
    assert all(name in of_network for name, _ in network.named_parameters() if name.startswith(embedded))
    assert {name for name, p in objective.projector.named_parameters() if p.requires_grad} == {
        name.removeprefix("projector.") for name in moved if name.startswith("projector.")
    }


def test_every_weight_of_a_plain_encoder_moves_and_its_class_head_does_not():
    moved, _ = moved_by_one_step(SimCLR(PlainNetwork(2), CONFIG), images())
    of_network = {name for name in moved if name.startswith("network.")}
    assert of_network == {f"network.{part}.0.{kind}" for part in ("stem", "encoder") for kind in ("weight", "bias")}


def test_the_embedding_of_a_sample_is_the_same_in_a_batch_and_alone(batch):
    objective = SimCLR(tiny_network(), CONFIG)
    with torch.no_grad():
        together = objective(batch).embedding
        apart = torch.cat([objective({"views": half}).embedding for half in batch["views"].split(2)])
    assert together.shape == (3, 2, 16 * 12)
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_loss_falls_and_partners_are_found_more_often_than_by_chance(dimensions):
    torch.manual_seed(0)
    objective = SimCLR(PlainNetwork(dimensions), CONFIG)
    batch = images() if dimensions == 2 else volumes(8)
    optimiser = torch.optim.SGD(objective.parameters_of("main"), lr=0.1, momentum=0.9)
    losses = [step(objective, optimiser, batch) for _ in range(20)]
    with torch.no_grad():
        loss, figures, _ = loss_of(objective, batch)
    assert loss < 0.8 * losses[0]
    assert figures["top1"] > 3 / 15
