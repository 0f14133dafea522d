import numpy as np
import pytest
import torch

from napari_pcs.objectives.sinkhorn import sinkhorn


def random_scores(samples=12, prototypes=5, seed=0):
    return torch.rand((samples, prototypes), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def authors(scores, epsilon, iterations):
    """`distributed_sinkhorn` of main_swav.py (facebookresearch/swav), one process, loops written out."""
    q = np.exp(scores.double().numpy() / epsilon).T
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        for k in range(prototypes):
            q[k] = q[k] / q[k].sum() / prototypes
        for b in range(samples):
            q[:, b] = q[:, b] / q[:, b].sum() / samples
    return (q * samples).T


@pytest.mark.parametrize(("samples", "prototypes"), [(12, 5), (4, 30)])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_it_is_the_authors_code_written_out(samples, prototypes, epsilon):
    scores = random_scores(samples, prototypes)
    expected = authors(scores, epsilon, 3)
    np.testing.assert_allclose(sinkhorn(scores, epsilon=epsilon, iterations=3), expected, rtol=2e-4, atol=1e-7)


def test_shares_of_each_sample_sum_to_one_after_any_number_of_iterations():
    for iterations in (1, 3, 10):
        total = sinkhorn(random_scores(), iterations=iterations).sum(dim=1)
        torch.testing.assert_close(total, torch.ones(12))


def test_shares_of_each_prototype_sum_to_samples_over_prototypes():
    total = sinkhorn(random_scores(), epsilon=0.5, iterations=100).sum(dim=0)
    torch.testing.assert_close(total, torch.full((5,), 12 / 5))


def test_every_iteration_brings_the_prototypes_closer_to_equal_shares():
    scores = random_scores(60, 7)
    errors = [float((sinkhorn(scores, iterations=n).sum(dim=0) - 60 / 7).abs().max()) for n in (1, 3, 10, 30)]
    assert errors == sorted(errors, reverse=True)


def test_a_permutation_of_the_samples_permutes_their_shares():
    scores = random_scores()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sinkhorn(scores[order]), sinkhorn(scores)[order])


def test_a_constant_added_to_a_prototype_changes_nothing_nor_in_the_end_one_added_to_a_sample():
    scores = random_scores()
    torch.testing.assert_close(sinkhorn(scores + torch.linspace(0, 1, 5)), sinkhorn(scores), atol=1e-5, rtol=1e-4)
    shifted = scores + torch.linspace(0, 1, 12)[:, None]
    torch.testing.assert_close(sinkhorn(shifted, iterations=200), sinkhorn(scores, iterations=200), atol=1e-3, rtol=0)


def test_a_tiny_epsilon_gives_hard_shares_and_nothing_that_is_not_a_number():
    shares = sinkhorn(torch.eye(4), epsilon=1e-4)
    torch.testing.assert_close(shares, torch.eye(4))
    assert sinkhorn(random_scores(), epsilon=1e-4).isfinite().all()


def test_no_gradient_passes():
    assert not sinkhorn(random_scores().requires_grad_()).requires_grad


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"iterations": 0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        sinkhorn(random_scores(), **options)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="found scores of shape"):
        sinkhorn(torch.zeros(0, 5))
