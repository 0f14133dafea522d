import numpy as np
import pytest

from napari_pcs.bids import CaseKey
from napari_pcs.data.splits import hold_out, hold_out_again
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


# Again, in a session that has grown


def test_without_anybody_before_it_is_the_plain_split():
    for n in range(8):
        for share in (0.0, 0.2, 0.5):
            keys = cohort(n, seed=n)
            assert hold_out_again(keys, share, n) == hold_out(keys, share, n)


def test_who_trained_an_ancestor_never_judges_and_who_judged_one_never_trains():
    keys = cohort(10)
    names = sorted(people(keys))
    for seed in range(30):
        training, held_out = hold_out_again(keys, 0.3, seed, trained_before=names[:4], held_out_before=names[4:6])
        assert set(names[:4]) <= people(training)
        assert set(names[4:6]) <= people(held_out)
        assert len(people(held_out)) == 3


def test_somebody_on_both_sides_of_earlier_tunings_trains():
    keys = cohort(3)
    training, held_out = hold_out_again(keys, 0.3, 0, trained_before=["000"], held_out_before=["000", "001"])
    assert "000" in people(training)
    assert "001" in people(held_out)


def test_those_held_out_before_stay_so_even_where_they_are_more_than_the_share_or_nobody_was_asked_for():
    keys = cohort(4)
    for share in (0.0, 0.1):
        assert people(hold_out_again(keys, share, 0, held_out_before=["001", "002"])[1]) == {"001", "002"}


def test_one_new_person_among_those_who_trained_is_held_out():
    keys = cohort(3)
    assert people(hold_out_again(keys, 0.01, 0, trained_before=["000", "001"])[1]) == {"002"}


def test_nobody_is_held_out_where_all_trained_and_nobody_trains_where_all_judged():
    keys = cohort(3)
    assert hold_out_again(keys, 0.5, 0, trained_before=people(keys)) == (sorted(keys), [])
    assert hold_out_again(keys, 0.5, 0, held_out_before=people(keys)) == ([], sorted(keys))


def test_of_new_people_one_is_left_to_train_on():
    keys = cohort(3)
    for seed in range(20):
        training, held_out = hold_out_again(keys, 0.99, seed, held_out_before=["000"])
        assert len(people(training)) == 1
        assert len(people(held_out)) == 2


def test_a_partly_done_case_never_judges_and_one_of_a_person_held_out_is_used_for_nothing():
    keys = [CaseKey(f"{p}", "", h) for p in range(6) for h in Hemisphere]
    partly = [key for key in keys if key.hemisphere is Hemisphere.RIGHT]
    for seed in range(20):
        training, held_out = hold_out_again(keys, 0.34, seed, partly_done=partly)
        assert len(held_out) == 2
        assert not set(held_out) & set(partly)
        assert not people(training) & people(held_out)
        lost = set(keys) - set(training) - set(held_out)
        assert lost == {key for key in partly if key.subject in people(held_out)}


def test_somebody_with_partly_done_cases_alone_is_not_newly_held_out():
    keys = cohort(5)
    partly = [key for key in keys if key.subject in {"000", "001", "002", "003"}]
    for seed in range(20):
        assert people(hold_out_again(keys, 0.5, seed, partly_done=partly)[1]) == {"004"}
    stays = hold_out_again(keys, 0.5, 0, held_out_before=["000"], partly_done=partly)
    assert people(stays[1]) == {"004"}
    assert "000" not in people(stays[0])


def test_a_split_again_does_not_depend_on_the_order_of_anything():
    keys = cohort(12)
    before, judged, partly = ["001", "004", "007"], ["002", "003"], [keys[0], keys[9]]
    expected = hold_out_again(keys, 0.4, 5, before, judged, partly)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(keys))
        shuffled = [keys[i] for i in order]
        assert hold_out_again(shuffled, 0.4, 5, before[::-1], set(judged), frozenset(partly)) == expected


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_however_a_session_grows_nobody_who_ever_trained_judges_a_descendant(share):
    for seed in range(60):
        rng = np.random.default_rng([seed, 1])
        everything = cohort(14, seed)
        arrival = rng.integers(0, 4, len(everything))
        done = rng.integers(0, 4, len(everything))
        trained, judged = set(), set()
        for tuning in range(4):
            keys = [key for key, since in zip(everything, arrival, strict=True) if since <= tuning]
            # Cases may be taken out of a session again, and partly done ones are finished later.
            keys = [key for key in keys if rng.random() > 0.1]
            partly = [key for key, when in zip(everything, done, strict=True) if when > tuning]
            training, held_out = hold_out_again(keys, share, seed + tuning, trained, judged, partly)
            assert not people(held_out) & (trained | people(training))
            assert not people(training) & judged
            assert not set(held_out) & set(partly)
            assert set(training) | set(held_out) <= set(keys)
            new = people(keys) - trained - judged
            able = {key.subject for key in keys if key not in partly} - trained
            if able and (len(new) > 1 or (new and people(keys) & trained)) and new & able:
                assert held_out
            trained |= people(training)
            judged |= people(held_out)
            assert not trained & judged
