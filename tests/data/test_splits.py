import numpy as np
import pytest

from napari_pcs.bids import CaseKey
from napari_pcs.data.splits import hold_out
from napari_pcs.labels import Hemisphere


def cohort(n, seed=0):
    """People with one or two hemispheres, and some with two sessions."""
    rng = np.random.default_rng(seed)
    keys = []
    for person in range(n):
        sides = list(Hemisphere)[: rng.integers(1, 3)]
        for session in ("", "2")[: rng.integers(1, 3)]:
            keys += [CaseKey(f"{person:03d}", session, side) for side in sides]
    return keys


def people(keys):
    return {key.subject for key in keys}


@pytest.mark.parametrize("n", [2, 3, 5, 10, 37])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_nobody_is_on_both_sides_and_nobody_is_lost(n, share):
    for seed in range(30):
        keys = cohort(n, seed)
        training, held_out = hold_out(keys, share, seed)
        assert not people(training) & people(held_out)
        assert sorted(training + held_out) == sorted(keys)
        assert len(people(held_out)) == min(max(1, round(share * n)), n - 1)
        assert training


@pytest.mark.parametrize("share", [0.2, 0.9, 1.0])
def test_somebody_is_always_left_to_train_on(share):
    for n in range(2, 12):
        training, held_out = hold_out(cohort(n), share, seed=n)
        assert people(training)
        assert people(held_out)


def test_the_split_does_not_depend_on_the_order_of_the_cases():
    keys = cohort(12)
    expected = hold_out(keys, 0.3, 5)
    for seed in range(20):
        shuffled = [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]
        assert hold_out(shuffled, 0.3, 5) == expected


def test_both_hemispheres_and_all_sessions_of_a_person_go_together():
    keys = [CaseKey(f"{p}", s, h) for p in range(8) for s in ("", "a") for h in Hemisphere]
    for seed in range(30):
        training, held_out = hold_out(keys, 0.25, seed)
        assert len(held_out) == 2 * 4
        assert len(training) == 6 * 4


def test_another_hemisphere_of_the_same_people_changes_nobodys_side():
    left = [CaseKey(f"{p}", "", Hemisphere.LEFT) for p in range(10)]
    both = [*left, *(CaseKey(k.subject, "", Hemisphere.RIGHT) for k in left)]
    for seed in range(20):
        assert people(hold_out(left, 0.3, seed)[1]) == people(hold_out(both, 0.3, seed)[1])


def test_different_seeds_hold_different_people_out_and_everybody_has_a_turn():
    keys = [CaseKey(f"{p}", "", Hemisphere.LEFT) for p in range(6)]
    chosen = [frozenset(people(hold_out(keys, 0.2, seed)[1])) for seed in range(60)]
    assert frozenset().union(*chosen) == people(keys)


@pytest.mark.parametrize(("keys", "share"), [(cohort(1), 0.5), (cohort(9), 0.0), ([], 0.2)])
def test_nobody_is_held_out_of_one_person_or_where_it_was_not_asked_for(keys, share):
    assert hold_out(keys, share, 0) == (sorted(keys), [])
