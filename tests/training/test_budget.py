import pytest

from napari_pcs.training import budget as module
from napari_pcs.training.budget import Budget


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def rounds_of(budget, clock, lengths):
    """How many rounds of these lengths begin."""
    for done, length in enumerate(lengths):
        if not budget.allows_another_round():
            return done
        clock.now += length
    return len(lengths)


def test_rounds_begin_as_long_as_the_next_one_ends_in_time(clock):
    # After 4 rounds 22 s are gone, and a fifth of 6 s would end at 28; a sixth at 34.
    assert rounds_of(Budget(30), clock, [4, 6, 6, 6, 6, 6]) == 5


def test_the_first_round_is_always_done(clock):
    assert rounds_of(Budget(30), clock, [40, 1]) == 1


def test_what_a_round_prepares_for_others_is_not_expected_of_them(clock):
    """The first takes 20 s, of which it prepares for 18: 2 s are expected of the others."""
    prepared = iter([0.0, *[18.0] * 9])
    budget = Budget(30, prepared_s=lambda: next(prepared))
    assert rounds_of(budget, clock, [20, 2, 2, 2, 2, 2, 2]) == 6


@pytest.mark.parametrize(("ahead", "begin"), [(19, 2), (21, 1)])
def test_what_the_next_round_has_to_prepare_is_expected_of_it(clock, ahead, begin):
    """After the first, 5 s are gone and another 5 s, and what it prepares, are expected of the second."""
    budget = Budget(30, preparing_s=lambda number: {1: ahead}.get(number, 0.0))
    assert rounds_of(budget, clock, [5, 5 + ahead, 40]) == begin


def test_the_longest_round_is_expected_again(clock):
    # After 6 rounds 20 s are gone; another of 11 s would end at 31.
    assert rounds_of(Budget(30), clock, [1, 2, 11, 2, 2, 2, 2, 2]) == 6


def test_without_end(clock):
    budget = Budget(None)
    assert rounds_of(budget, clock, [1e6] * 50) == 50
    assert budget.seconds_left is None


def test_what_is_left_never_falls_below_nothing(clock):
    budget = Budget(30)
    clock.now += 12
    assert budget.seconds_left == 18
    clock.now += 50
    assert budget.seconds_left == 0
