import math

import pytest
import torch
from monai.losses import ContrastiveLoss

from napari_pcs.objectives.nt_xent import nt_xent, partner_accuracy


def random_pairs(batch=6, channels=8, seed=0):
    return torch.randn((batch, 2, channels), generator=torch.Generator().manual_seed(seed))


def naive(embedding, temperature):
    """Eq. 7 of the first paper, written out, over (i, j) and (j, i) of every sample."""
    views = [view for pair in embedding.double() for view in pair]

    def sim(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    losses = []
    for i, view in enumerate(views):
        j = i + 1 if i % 2 == 0 else i - 1
        below = sum(math.exp(sim(view, other) / temperature) for k, other in enumerate(views) if k != i)
        losses.append(-math.log(math.exp(sim(view, views[j]) / temperature) / below))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_it_is_the_formula_written_out(temperature):
    pairs = random_pairs()
    assert float(nt_xent(pairs, temperature)) == pytest.approx(naive(pairs, temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_it_is_monais_contrastive_loss(temperature):
    pairs = random_pairs(batch=5, channels=16, seed=1)
    other = ContrastiveLoss(temperature=temperature)(pairs[:, 0], pairs[:, 1])
    torch.testing.assert_close(nt_xent(pairs, temperature), other, rtol=1e-5, atol=1e-6)


def test_the_order_of_the_pairs_does_not_matter():
    pairs = random_pairs(batch=7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(nt_xent(pairs[order], 0.5), nt_xent(pairs, 0.5))


def test_the_order_of_the_two_views_does_not_matter():
    pairs = random_pairs()
    some = pairs.clone()
    some[::2] = some[::2].flip(1)
    torch.testing.assert_close(nt_xent(pairs.flip(1), 0.5), nt_xent(pairs, 0.5))
    torch.testing.assert_close(nt_xent(some, 0.5), nt_xent(pairs, 0.5))


def test_a_permutation_of_the_pairs_permutes_the_gradient():
    pairs = random_pairs().requires_grad_()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    (gradient,) = torch.autograd.grad(nt_xent(pairs, 0.5), pairs)
    (permuted,) = torch.autograd.grad(nt_xent(pairs[order], 0.5), pairs)
    torch.testing.assert_close(permuted, gradient)


def test_the_length_of_an_embedding_does_not_matter():
    pairs = random_pairs()
    lengths = torch.rand((6, 2, 1), generator=torch.Generator().manual_seed(4)) * 100 + 0.01
    torch.testing.assert_close(nt_xent(pairs * lengths, 0.5), nt_xent(pairs, 0.5))


def test_pairs_that_match_cost_less_than_pairs_that_do_not():
    pairs = random_pairs()
    matching = pairs[:, :1].expand(-1, 2, -1)
    assert nt_xent(matching, 0.1) < nt_xent(pairs, 0.1)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_identical_rows_cost_a_guess_and_have_a_finite_gradient(temperature):
    pairs = torch.ones((4, 2, 8), requires_grad=True)
    loss = nt_xent(pairs, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2 * 4 - 1), rel=1e-5)
    assert pairs.grad.isfinite().all()


def test_embeddings_of_zeros_have_a_finite_loss_and_gradient():
    pairs = torch.zeros((3, 2, 8), requires_grad=True)
    loss = nt_xent(pairs, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5), rel=1e-5)
    assert pairs.grad.isfinite().all()


def test_half_precision_is_computed_in_single():
    pairs = random_pairs(channels=64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(pairs, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent(pairs.float(), 0.1))


def test_partners_are_found_where_views_match_and_by_chance_where_none_does():
    pairs = random_pairs(batch=64, channels=4)
    assert partner_accuracy(pairs[:, :1].expand(-1, 2, -1)) == 1
    assert partner_accuracy(pairs) < 0.1


def test_three_views_are_refused():
    with pytest.raises(ValueError, match="expected \\(batch, 2, channels\\)"):
        nt_xent(torch.zeros(4, 3, 8), 0.5)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        nt_xent(random_pairs(), 0.0)
