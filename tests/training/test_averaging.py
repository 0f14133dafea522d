import pytest
import torch
from torch import nn

from napari_pcs.training.averaging import PolynomialAverage


def walk(steps, decay, seed=0):
    """A weight that moves at random, one that is frozen, their average, and where the first one has been."""
    torch.manual_seed(seed)
    moving, frozen = nn.Parameter(torch.zeros(3, dtype=torch.float64)), nn.Parameter(torch.ones(2), requires_grad=False)
    average = PolynomialAverage([frozen, moving], decay)
    been = []
    for _ in range(steps):
        with torch.no_grad():
            moving += torch.randn(3, dtype=torch.float64)
        average.add()
        been.append(moving.detach().clone())
    return moving, frozen, average, torch.stack(been)


def applied(average, weight):
    with average.applied():
        return weight.detach().clone()


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_with_a_decay_of_0_it_is_the_mean_of_all_steps(steps):
    moving, _, average, been = walk(steps, 0)
    torch.testing.assert_close(applied(average, moving), been.mean(dim=0))


@pytest.mark.parametrize("decay", [1, 3])
def test_a_step_counts_as_its_number_says(decay):
    """By hand: of n steps, step t has the share (d + 1)/(t + d), less what each later one takes."""
    moving, _, average, been = walk(9, decay)
    shares = []
    for t in range(1, 10):
        share = (decay + 1) / (t + decay)
        for later in range(t + 1, 10):
            share *= 1 - (decay + 1) / (later + decay)
        shares.append(share)
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares)
    torch.testing.assert_close(applied(average, moving), (torch.tensor(shares).double()[:, None] * been).sum(dim=0))


def test_afterwards_the_weights_are_as_they_were():
    moving, frozen, average, been = walk(4, 3)
    inside = applied(average, moving)
    assert not torch.equal(inside, been[-1])
    assert torch.equal(moving, been[-1])
    with pytest.raises(ZeroDivisionError), average.applied():
        1 / 0  # noqa: B018
    assert torch.equal(moving, been[-1])
    assert torch.equal(applied(average, moving), inside)
    assert torch.equal(frozen, torch.ones(2))


def test_before_the_first_step_it_is_the_weights():
    weight = nn.Parameter(torch.arange(3.0))
    assert torch.equal(applied(PolynomialAverage([weight]), weight), torch.arange(3.0))


def test_an_optimiser_goes_on_from_the_weights_themselves():
    """Two trainings, one of them looked at by its average in between, end alike."""
    ends = []
    for looked_at in (False, True):
        weight = nn.Parameter(torch.ones(4))
        optimiser = torch.optim.Adam([weight], 0.1)
        average = PolynomialAverage([weight])
        for _ in range(5):
            optimiser.zero_grad()
            (weight**2).sum().backward()
            optimiser.step()
            average.add()
            if looked_at:
                applied(average, weight)
        ends.append(weight.detach().clone())
    assert torch.equal(*ends)


def test_around_a_minimum_the_mean_is_nearer_to_it_than_the_last_step():
    """Noisy gradients of x^2 at a constant step size."""
    generator = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.full((200,), 3.0))
    optimiser = torch.optim.SGD([weight], 0.2)
    average = PolynomialAverage([weight])
    for _ in range(60):
        weight.grad = 2 * weight.detach() + torch.randn(200, generator=generator)
        optimiser.step()
        average.add()
    assert applied(average, weight).square().mean() < 0.3 * weight.square().mean()
