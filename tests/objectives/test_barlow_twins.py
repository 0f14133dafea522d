from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import tensors_of, tiny_network
from torch import nn

from napari_pcs.data.patch import Patch
from napari_pcs.errors import InputError, ModelError
from napari_pcs.models.contract import Network
from napari_pcs.objectives import find_objective
from napari_pcs.objectives.barlow_twins import BarlowTwins, BarlowTwinsConfig, barlow_twins_loss
from napari_pcs.objectives.projector import Projector

SIZE = (64, 32, 32)
SMALL = BarlowTwinsConfig(width=16)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(count, seed=0):
    rng = np.random.default_rng(seed)
    regions = BarlowTwins.region(SIZE, SMALL)
    patches = [Patch(rng.integers(0, 3, (1, *regions)).astype(np.float32) / 2, None, "noise") for _ in range(count)]
    return {"views": torch.from_numpy(np.stack([BarlowTwins.sample(p, SIZE, SMALL, rng)["views"] for p in patches]))}


@pytest.fixture
def objective():
    torch.manual_seed(0)
    return BarlowTwins(tiny_network().train(), SMALL)


def written_out(z_a, z_b, weight):
    """Sum over pairs of features of the squared distance of their correlation from 1 or from 0."""
    a, b = (np.asarray(z, dtype=np.float64) for z in (z_a, z_b))
    total = 0.0
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            c = np.corrcoef(a[:, i], b[:, j])[0, 1]
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


@pytest.mark.parametrize(("samples", "features"), [(2, 3), (16, 7), (5, 20)])
def test_the_loss_is_the_papers_sum_over_correlations(samples, features):
    z_a, z_b = random(samples, features), random(samples, features, seed=1)
    loss, on_diagonal, off_diagonal = barlow_twins_loss(z_a, z_b, 0.02)
    assert loss.item() == pytest.approx(written_out(z_a, z_b, 0.02), rel=1e-3)
    assert on_diagonal.item() == pytest.approx(written_out(z_a, z_b, 0), rel=1e-3)
    assert loss.item() == pytest.approx((on_diagonal + 0.02 * off_diagonal).item(), rel=1e-6)


def test_loss_and_gradient_are_those_of_a_batch_normalisation_without_gain_and_a_product():
    z_a, z_b = (random(12, 6, seed=seed).requires_grad_() for seed in (0, 1))
    barlow_twins_loss(z_a, z_b, 0.005)[0].backward()
    x_a, x_b = (z.detach().clone().requires_grad_() for z in (z_a, z_b))
    norm = nn.BatchNorm1d(6, affine=False)
    product = norm(x_a).T @ norm(x_b) / 12
    diagonal = torch.eye(6, dtype=torch.bool)
    expected = ((product[diagonal] - 1) ** 2).sum() + 0.005 * (product[~diagonal] ** 2).sum()
    expected.backward()
    torch.testing.assert_close(z_a.grad, x_a.grad)
    torch.testing.assert_close(z_b.grad, x_b.grad)


def test_scale_and_offset_of_each_feature_change_nothing():
    z_a, z_b = 10 * random(16, 8), 10 * random(16, 8, seed=1)
    plain = barlow_twins_loss(z_a, z_b, 0.02)[0]
    stretch, offset = 0.5 + torch.arange(8.0), 5 * random(8, seed=2)
    signs = torch.tensor([1, -1] * 4)
    torch.testing.assert_close(barlow_twins_loss(z_a * stretch + offset, z_b, 0.02)[0], plain, rtol=1e-4, atol=0)
    torch.testing.assert_close(barlow_twins_loss(z_a, z_b * stretch - offset, 0.02)[0], plain, rtol=1e-4, atol=0)
    turned = barlow_twins_loss(z_a * stretch * signs, z_b * signs + offset, 0.02)[0]
    torch.testing.assert_close(turned, plain, rtol=1e-4, atol=0)


def test_order_of_the_samples_changes_nothing():
    z_a, z_b = random(9, 5), random(9, 5, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(barlow_twins_loss(z_a[order], z_b[order], 1)[0], barlow_twins_loss(z_a, z_b, 1)[0])


def test_equal_views_with_uncorrelated_features_lose_nothing():
    centred = random(64, 8) - random(64, 8).mean(0)
    white = torch.linalg.qr(centred).Q
    assert barlow_twins_loss(100 * white, 100 * white, 1)[0].item() == pytest.approx(0, abs=1e-6)


def test_equal_views_with_one_feature_repeated_lose_all_that_is_off_the_diagonal():
    same = random(32, 1).expand(-1, 4)
    loss, on_diagonal, off_diagonal = barlow_twins_loss(same, same, 0.5)
    assert on_diagonal.item() == pytest.approx(0, abs=1e-6)
    assert off_diagonal.item() == pytest.approx(12, rel=1e-4)
    assert loss.item() == pytest.approx(6, rel=1e-4)


@pytest.mark.parametrize(("a", "b"), [((1, 4), (1, 4)), ((4, 4), (4, 3))])
def test_what_cannot_be_correlated_is_refused(a, b):
    with pytest.raises(InputError, match="expected two of one shape, of at least two samples"):
        barlow_twins_loss(torch.zeros(a), torch.zeros(b), 1)


def test_half_precision_around_it_does_not_reach_the_loss():
    z_a, z_b = random(16, 64), random(16, 64, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = barlow_twins_loss(z_a, z_b, 0.005)[0]
    assert torch.equal(inside, barlow_twins_loss(z_a, z_b, 0.005)[0])


def test_it_is_found_by_its_name():
    assert find_objective("barlow_twins") is BarlowTwins


def test_the_projector_is_the_papers():
    layers = Projector(20, (16, 16, 8)).layers
    assert [type(m).__name__ for m in layers] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [(m.in_features, m.out_features) for m in layers[::3]] == [(20, 16), (16, 16), (16, 8)]
    assert all(m.bias is None for m in layers[::3])


def test_a_projector_can_normalise_its_output_without_learning_an_offset():
    projector = Projector(6, (6, 4), bias=True, last_norm=True)
    out = projector(random(32, 6))
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    assert [name for name, p in projector.named_parameters() if not p.requires_grad] == ["layers.4.bias"]
    assert Projector(6, (4,))(random(3, 6)).shape == (3, 4)


def test_a_projector_takes_embeddings_of_half_precision():
    out = Projector(6, (4, 4))(random(8, 6).bfloat16())
    assert out.dtype == torch.float32


class Pixels(Network):
    """A 2-D network of one convolution."""

    parts = {"stem": ("stem",), "encoder": (), "decoder": (), "heads": ()}  # noqa: RUF012
    embedding_channels = 5

    def __init__(self, colours):
        super().__init__()
        self.config = SimpleNamespace(spatial_dims=2, image_channels=colours, architecture="pixels")
        self.stem = nn.Conv2d(colours, 5, 3)

    def embed(self, image):
        return self.stem(image).relu().mean((2, 3))


def test_images_are_learnt_from_as_well():
    objective, rng = BarlowTwins(Pixels(3), SMALL), np.random.default_rng(0)
    patches = [Patch(rng.random((1, 40, 50)).astype(np.float32), None, "slice") for _ in range(4)]
    assert BarlowTwins.region((24, 24), SMALL) == (24, 24)
    views = np.stack([BarlowTwins.sample(p, (24, 24), SMALL, rng)["views"] for p in patches])
    outcome = objective({"views": torch.from_numpy(views)})
    assert outcome.embedding.shape == (4, 2, 5)
    objective.compare(outcome.embedding).loss.backward()
    assert objective.network.stem.weight.grad.any()


def test_images_of_other_colours_than_the_network_takes_are_refused():
    with pytest.raises(ModelError, match="found 3 colours in the settings, expected 1"):
        BarlowTwins(Pixels(1), SMALL)


def test_a_sample_says_nothing_of_where_its_patch_lies():
    patch = Patch(np.zeros((1, 80, 40, 40), dtype=np.float32), np.ones((3, 80, 40, 40), dtype=np.float32), "there")
    assert set(BarlowTwins.sample(patch, SIZE, SMALL, np.random.default_rng(0))) == {"views"}


def test_a_batch_is_embedded_like_its_halves(objective):
    batch = batch_of(4)
    whole = objective(batch)
    halves = [objective({"views": batch["views"][part]}) for part in (slice(0, 1), slice(1, 4))]
    assert whole.loss is None
    assert whole.embedding.shape == (4, 2, objective.network.embedding_channels)
    torch.testing.assert_close(torch.cat([h.embedding for h in halves]), whole.embedding, atol=1e-4, rtol=1e-4)


def test_the_comparison_is_the_scaled_loss_of_the_projections(objective):
    embedding = random(6, 2, objective.network.embedding_channels)
    outcome = objective.compare(embedding)
    projected = [objective.projector(embedding[:, i]) for i in (0, 1)]
    loss, on_diagonal, off_diagonal = barlow_twins_loss(*projected, 5e-3)
    torch.testing.assert_close(outcome.loss, loss)
    assert outcome.figures == {"on_diagonal": on_diagonal, "off_diagonal": off_diagonal}
    assert not outcome.figures["on_diagonal"].requires_grad
    doubled = BarlowTwins(objective.network, SMALL.model_copy(update={"scale": 2.0}))
    doubled.projector.load_state_dict(objective.projector.state_dict())
    torch.testing.assert_close(doubled.compare(embedding).loss, 2 * outcome.loss)


def test_a_step_moves_exactly_the_parts_it_trains_and_the_projector(objective):
    optimiser = torch.optim.Adam(objective.parameters_of("main"), lr=1e-3)
    before = tensors_of(objective)
    parts = {
        f"network.{name}.{tensor}": part
        for part in ("stem", "encoder", "decoder", "heads")
        for name, module in objective.network.modules_of(part)
        for tensor, _ in module.named_parameters()
    }
    objective.compare(objective(batch_of(3)).embedding).loss.backward()
    reached = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    optimiser.step()
    moved = {name for name, now in objective.named_parameters() if not torch.equal(now, before[name])}
    assert moved == reached
    assert {parts[name] for name in moved if name in parts} == {"stem", "encoder"}
    assert {name for name in moved if name not in parts} == {
        f"projector.{name}" for name, _ in objective.projector.named_parameters()
    }
    assert all(name in parts or name.startswith("projector.") for name, _ in objective.named_parameters())


def test_a_small_step_against_the_gradient_brings_the_loss_down_by_what_the_gradient_says(objective):
    batch, weights = batch_of(3), objective.parameters_of("main")
    before = objective.compare(objective(batch).embedding).loss
    gradients = torch.autograd.grad(before, weights, allow_unused=True)
    length = sum(g.square().sum() for g in gradients if g is not None)
    drop = 1e-3 * before.item()
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight -= drop / length * gradient
        after = objective.compare(objective(batch).embedding).loss
    assert before.item() - after.item() == pytest.approx(drop, rel=0.3)
