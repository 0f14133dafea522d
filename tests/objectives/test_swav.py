import math

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
from pydantic import ValidationError
from safetensors.torch import load, save

from napari_pcs.errors import InputError, ModelError
from napari_pcs.objectives.embedding_queue import EmbeddingQueue
from napari_pcs.objectives.prototypes import Prototypes, perplexity
from napari_pcs.objectives.sinkhorn import sinkhorn
from napari_pcs.objectives.swapped import swapped_prediction
from napari_pcs.objectives.swav import SwAV
from napari_pcs.objectives.swav_config import SwAVConfig

CONFIG = SwAVConfig(prototypes=6, projected_channels=8)
SMALL = SwAVConfig(prototypes=6, projected_channels=8, small_crops=2, small_size=(16, 16))
QUEUED = SwAVConfig(prototypes=6, projected_channels=8, queue_length=8, queue_epoch=2)
PICTURE = (32, 32)


def images(count=8, config=CONFIG, seed=0):
    return batch_of(SwAV, pictures(count), PICTURE, config, seed)


def plain(config=CONFIG, seed=0):
    network = PlainNetwork(2, seed)
    return SwAV(network, config)


def optimiser_of(objective, rate=0.1):
    return torch.optim.SGD(objective.parameters_of("main"), lr=rate, momentum=0.9, weight_decay=1e-2)


def embeddings(samples=5, views=4, channels=16, seed=0):
    return torch.randn((samples, views, channels), generator=torch.Generator().manual_seed(seed))


def naive_swapped(scores, assignments, temperature):
    """Loops of main_swav.py (facebookresearch/swav), written out."""
    samples, views, prototypes = scores.shape
    loss = 0.0
    for i in range(assignments.shape[1]):
        subloss = 0.0
        for v in range(views):
            if v == i:
                continue
            for b in range(samples):
                below = sum(math.exp(s / temperature) for s in scores[b, v].tolist())
                for k in range(prototypes):
                    share = math.exp(float(scores[b, v, k]) / temperature) / below
                    subloss -= float(assignments[b, i, k]) * math.log(share) / samples
        loss += subloss / (views - 1)
    return loss / assignments.shape[1]


@pytest.mark.parametrize("views", [2, 5])
def test_swapped_prediction_is_the_authors_loops_written_out(views):
    scores = embeddings(views=views, channels=6).tanh()
    shares = torch.softmax(embeddings(views=2, channels=6, seed=1), dim=2)
    expected = naive_swapped(scores, shares, 0.1)
    assert swapped_prediction(scores, shares, 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_swapped_prediction_needs_another_view():
    with pytest.raises(ValueError, match="expected some of at least two"):
        swapped_prediction(torch.zeros(3, 1, 4), torch.zeros(3, 1, 4), 0.1)


def test_no_gradient_passes_through_assignments():
    shares = torch.full((3, 2, 4), 0.25, requires_grad=True)
    scores = torch.zeros(3, 2, 4, requires_grad=True)
    swapped_prediction(scores, shares, 0.1).backward()
    assert shares.grad is None
    assert scores.grad is not None


def test_the_loss_is_that_of_the_authors_code_on_the_projected_views():
    torch.manual_seed(0)
    objective = plain()
    embedding = embeddings(samples=12)
    loss = objective.compare(embedding).loss.item()
    z = objective.projector(embedding.flatten(0, 1)).detach().double().reshape(12, 4, 8)
    z = z / z.norm(dim=2, keepdim=True)
    scores = z @ objective.prototypes.weight.detach().double().T
    shares = torch.stack([sinkhorn(scores[:, view], epsilon=0.05, iterations=3) for view in (0, 1)], dim=1)
    assert loss == pytest.approx(naive_swapped(scores, shares, 0.1), rel=1e-4)


def test_the_order_of_samples_of_large_and_of_small_views_does_not_matter():
    objective, embedding = plain(), embeddings()
    loss = objective.compare(embedding).loss
    for same in (embedding[[3, 1, 4, 0, 2]], embedding[:, [1, 0, 2, 3]], embedding[:, [0, 1, 3, 2]]):
        torch.testing.assert_close(objective.compare(same).loss, loss, rtol=1e-4, atol=1e-5)


def test_samples_are_two_large_views_and_as_many_small_ones_as_asked_for():
    sample = SwAV.sample(pictures(1)[0], PICTURE, SMALL, np.random.default_rng(0))
    assert {name: array.shape for name, array in sample.items()} == {"large": (2, 3, 32, 32), "small": (2, 3, 16, 16)}
    assert set(SwAV.sample(pictures(1)[0], PICTURE, CONFIG, np.random.default_rng(0))) == {"large"}


def test_small_crops_of_volumes_are_smaller_fields_of_view():
    config = SwAVConfig(small_crops=1, small_size=(64, 32, 32), prototypes=6, projected_channels=8)
    size = (64, 64, 32)
    (patch,) = phantom_patches(1, SwAV.region(size, config))
    sample = SwAV.sample(patch, size, config, np.random.default_rng(0))
    batch = {name: torch.from_numpy(array[None]) for name, array in sample.items()}
    objective = SwAV(tiny_network(), config)
    with torch.no_grad():
        embedding = objective(batch).embedding
    assert embedding.shape == (1, 3, 16 * 12)
    assert embedding.isfinite().all()


def test_small_crops_need_a_size():
    with pytest.raises(ValidationError, match="expected small_size"):
        SwAVConfig(small_crops=2)


def test_small_crops_larger_than_the_patch_are_refused():
    with pytest.raises(InputError, match="16 x 16 in patches of 8 x 32"):
        SwAV.region((8, 32), SMALL)


@pytest.mark.parametrize("size", [(32, 32, 32), (64, 32, 40), (64, 32)])
def test_small_crops_that_the_network_cannot_take_are_refused(size):
    with pytest.raises(ModelError, match="multiples of 32 with one of at least 64"):
        SwAV(tiny_network(), SwAVConfig(small_crops=1, small_size=size))


def test_a_small_scale_in_the_wrong_order_is_refused():
    with pytest.raises(ValidationError, match="ascending order"):
        SwAVConfig(small_scale=(0.3, 0.1))


def test_prototypes_keep_length_one_while_they_move():
    torch.manual_seed(0)
    objective = plain()
    optimiser, before = optimiser_of(objective), objective.prototypes.weight.detach().clone()
    for _ in range(3):
        step(objective, optimiser, images())
    torch.testing.assert_close(objective.prototypes.weight.norm(dim=1), torch.ones(6))
    assert (objective.prototypes.weight - before).abs().max() > 1e-3


def test_prototypes_do_not_move_in_the_first_epoch_and_do_in_the_second():
    torch.manual_seed(0)
    objective = plain()
    optimiser, before = optimiser_of(objective), objective.prototypes.weight.detach().clone()
    for _ in range(3):
        step(objective, optimiser, images(), epoch=0)
    assert torch.equal(objective.prototypes.weight, before)
    step(objective, optimiser, images(), epoch=1)
    assert not torch.equal(objective.prototypes.weight, before)


def test_the_cosine_of_a_prototype_with_itself_is_one():
    prototypes = Prototypes(8, 5)
    torch.testing.assert_close(prototypes(prototypes.weight).diagonal(), torch.ones(5))


def test_prototypes_in_use_are_all_if_evenly_chosen_and_one_if_collapsed():
    assert perplexity(torch.eye(6)).item() == pytest.approx(6)
    assert perplexity(torch.eye(6)[[2, 2, 2]]).item() == pytest.approx(1)
    assert perplexity(torch.eye(6)[[0, 0, 3, 3]]).item() == pytest.approx(2)


def test_a_queue_keeps_the_newest_and_knows_when_it_is_full():
    queue = EmbeddingQueue(2, 4, 1)
    for number in range(1, 4):
        queue.push(torch.full((2, 1, 1), float(number)))
    assert not queue.full
    queue.push(torch.tensor([[[4.0], [5.0]], [[40.0], [50.0]]]))
    assert queue.full
    assert queue.rows[0].flatten().tolist() == [2, 3, 4, 5]
    assert queue.rows[1].flatten().tolist() == [2, 3, 40, 50]
    queue.push(torch.arange(12.0).reshape(2, 6, 1))
    assert queue.rows[0].flatten().tolist() == [2, 3, 4, 5]


def test_the_queue_joins_the_assignment_once_it_is_full_and_its_epoch_has_begun():
    torch.manual_seed(0)
    with_queue = plain(QUEUED)
    without = plain(CONFIG)
    without.load_state_dict({k: v for k, v in with_queue.state_dict().items() if not k.startswith("queue.")})
    embedding = embeddings(samples=4)

    def queue_is_out():
        losses = [objective.eval().compare(embedding).loss.item() for objective in (with_queue, without)]
        return losses[0] == pytest.approx(losses[1], rel=1e-6)

    with_queue.epoch.fill_(5)
    assert queue_is_out()
    rows = torch.nn.functional.normalize(embeddings(2, 8, 8, seed=9), dim=2)
    with_queue.queue.push(rows)
    assert not queue_is_out()
    with_queue.epoch.fill_(1)
    assert queue_is_out()


def test_assignments_with_a_queue_are_those_of_queue_and_batch_together():
    objective = plain(QUEUED)
    rows = torch.nn.functional.normalize(embeddings(2, 8, 8, seed=9), dim=2)
    objective.queue.push(rows)
    objective.epoch.fill_(2)
    scores = embeddings(5, 3, 6).tanh()
    found = objective._assign(scores)
    for view in (0, 1):
        everyone = torch.cat([rows[view] @ objective.prototypes.weight.detach().T, scores[:, view]])
        torch.testing.assert_close(found[:, view], sinkhorn(everyone)[8:])


def test_only_training_steps_feed_the_queue_and_with_the_large_views():
    torch.manual_seed(0)
    objective = plain(QUEUED)
    objective.eval().compare(embeddings(samples=3))
    objective.after_step()
    assert int(objective.queue.count) == 0
    objective.train().compare(embeddings(samples=3))
    assert int(objective.queue.count) == 0
    objective.after_step()
    assert int(objective.queue.count) == 3
    torch.testing.assert_close(objective.queue.rows[:, -3:].norm(dim=2), torch.ones(2, 3))
    objective.after_step()
    assert int(objective.queue.count) == 3


def test_a_run_that_was_saved_and_loaded_goes_on_exactly():
    def run(objective, steps):
        optimiser = torch.optim.SGD(objective.parameters_of("main"), lr=0.05)
        return [step(objective, optimiser, images(4, QUEUED, seed=10 * i), epoch=i // 2) for i in steps]

    whole = plain(QUEUED)
    expected = run(whole, range(8))
    first, second = plain(QUEUED), plain(QUEUED, seed=7)
    losses = run(first, range(5))
    assert first.queue.full
    second.load_state_dict(load(save(first.state_dict())))
    losses += run(second, range(5, 8))
    assert losses == expected
    assert all(torch.equal(t, second.state_dict()[name]) for name, t in whole.state_dict().items())


def test_a_step_moves_the_encoder_projector_and_prototypes_and_nothing_else():
    network = tiny_network()
    objective = SwAV(network, CONFIG)
    batch = batch_of(SwAV, phantom_patches(3, SwAV.region(SIZE, CONFIG)), SIZE, CONFIG)
    moved, with_gradient = moved_by_one_step(objective, batch)
    assert moved <= with_gradient
    of_network = {name.removeprefix("network.") for name in moved if name.startswith("network.")}
    assert {part_of(network, name) for name in of_network} == {"stem", "encoder"}
    assert "prototypes.weight" in moved
    # A constant before batch normalisation has no effect, and its gradient is rounding.
    own = {f"projector.{name}" for name, _ in objective.projector.named_parameters()} - {"projector.layers.0.bias"}
    assert own <= moved


def test_every_weight_of_a_plain_encoder_moves_and_its_class_head_does_not():
    moved, _ = moved_by_one_step(plain(), images())
    of_network = {name for name in moved if name.startswith("network.")}
    assert of_network == {f"network.{part}.0.{kind}" for part in ("stem", "encoder") for kind in ("weight", "bias")}


def test_the_embedding_of_a_sample_is_the_same_in_a_batch_and_alone():
    objective, batch = plain(SMALL), images(4, SMALL)
    with torch.no_grad():
        together = objective(batch).embedding
        apart = torch.cat(
            [objective({n: t[half] for n, t in batch.items()}).embedding for half in (slice(2), slice(2, 4))]
        )
    assert together.shape == (4, 4, 16)
    torch.testing.assert_close(apart, together)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_loss_falls_and_prototypes_stay_in_use(dimensions):
    torch.manual_seed(0)
    objective = SwAV(PlainNetwork(dimensions), CONFIG)
    patches = pictures(8) if dimensions == 2 else phantom_patches(8, SwAV.region(SIZE, CONFIG))
    batch = batch_of(SwAV, patches, PICTURE if dimensions == 2 else SIZE, CONFIG)
    optimiser = torch.optim.SGD(objective.parameters_of("main"), lr=0.05)
    losses = [step(objective, optimiser, batch) for _ in range(20)]
    with torch.no_grad():
        loss, figures, _ = loss_of(objective, batch)
    assert loss < 0.7 * losses[0]
    assert figures["prototypes_used"] > 2.5
