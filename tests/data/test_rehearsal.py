from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from napari_pcs.bids import CaseKey
from napari_pcs.data.rehearsal import Item, Mix, TuningRecord, fresh_and_rehearsed, items_of, labels_digest
from napari_pcs.data.splits import hold_out_again
from napari_pcs.errors import InputError, ModelError
from napari_pcs.labels import Hemisphere

L, R = Hemisphere


def key(subject, side=L):
    return CaseKey(subject, "", side)


def labels(seed=0, shape=(3, 4, 5)):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


# Digests


def test_the_same_labels_have_the_same_digest_however_they_lie_in_memory():
    array = labels()
    assert labels_digest(array) == labels_digest(np.asfortranarray(array)) == labels_digest(array.astype(np.int64))
    assert labels_digest(array) == labels_digest(np.repeat(array, 2, axis=0)[::2])


def test_one_voxel_another_shape_or_another_record_of_what_was_looked_at_is_another_digest():
    array = labels()
    other = array.copy()
    other[1, 2, 3] = (other[1, 2, 3] + 1) % 3
    seen = np.zeros(array.shape, dtype=bool)
    more = seen.copy()
    more[0] = True
    found = [labels_digest(a) for a in (array, other, array.reshape(5, 4, 3), array[:2])]
    found += [labels_digest(array, mask) for mask in (seen, more, np.ones_like(seen))]
    assert len(set(found)) == 7


# What a model has learnt


def test_a_model_that_was_never_tuned_has_learnt_nothing():
    assert fresh_and_rehearsed({"b": "2", "a": "1"}, None) == (["a", "b"], [])


def test_new_and_changed_cases_are_fresh_and_unchanged_ones_are_rehearsed():
    record = TuningRecord.after(None, {key("1"): "x", key("2"): "x", key("3"): "x"}, [])
    stems = [key(name).stem for name in "1234"]
    cases = dict(zip(stems, ("x", "y", "x", "x"), strict=True))
    assert fresh_and_rehearsed(cases, record) == ([stems[1], stems[3]], [stems[0], stems[2]])
    assert fresh_and_rehearsed({}, record) == ([], [])


def test_a_record_holds_what_all_tunings_before_learnt_and_the_last_labels_of_each_case():
    first = TuningRecord.after(None, {key("1"): "x", key("2", R): "x"}, [key("3")])
    second = TuningRecord.after(first, {key("1"): "y", key("4"): "z"}, [key("3", R), key("5")])
    assert second.trained == {"sub-1_hemi-L": "y", "sub-2_hemi-R": "x", "sub-4_hemi-L": "z"}
    assert second.held_out == ("sub-3_hemi-R", "sub-5_hemi-L")
    assert second.people_trained == ("1", "2", "4")
    assert second.people_held_out == ("3", "5")


def test_whoever_trained_once_is_nobody_to_judge():
    first = TuningRecord.after(None, {key("1"): "x"}, [key("2")])
    second = TuningRecord.after(first, {key("2"): "x"}, [])
    assert second.people_trained == ("1", "2")
    assert second.people_held_out == ()


def test_a_record_is_read_as_it_was_written_and_is_the_same_in_any_order(tmp_path):
    record = TuningRecord.after(None, {key("2"): "x", key("1"): "y"}, [key("4"), key("3")])
    record.write(tmp_path)
    assert TuningRecord.read(tmp_path) == record
    again = TuningRecord.after(None, {key("1"): "y", key("2"): "x"}, [key("3"), key("4")])
    assert again.model_dump_json() == record.model_dump_json()


def test_a_model_without_a_record_was_never_tuned(tmp_path):
    assert TuningRecord.read(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"trained": 3}', b"\xff\xfe", b"[]"])
def test_a_damaged_record_is_a_sentence_and_not_a_model_without_one(tmp_path, content):
    model = tmp_path / "mine"
    model.mkdir()
    (model / "tuning.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"Model mine: found a tuning\.json that cannot be read"):
        TuningRecord.read(model)


def test_a_record_does_not_change():
    record = TuningRecord.after(None, {key("1"): "x"}, [])
    with pytest.raises(ValidationError, match="frozen"):
        record.held_out = ("sub-9_hemi-L",)


def test_over_a_chain_of_three_tunings_nobody_leaks_and_every_case_is_fresh_once():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        record, judged, learnt = None, set(), []
        for tuning in range(3):
            keys = [key(f"{p}", side) for p in range(4 + 3 * tuning) for side in Hemisphere]
            digests = {k.stem: "same" for k in keys}
            before = (record.people_trained, record.people_held_out) if record else ((), ())
            training, held_out = hold_out_again(keys, 0.25, int(rng.integers(1000)), *before)
            fresh, rehearsed = fresh_and_rehearsed({k.stem: digests[k.stem] for k in training}, record)
            assert not set(fresh) & set(learnt)
            assert set(rehearsed) == set(learnt)
            learnt += fresh
            judged |= {k.subject for k in held_out}
            record = TuningRecord.after(record, {k: digests[k.stem] for k in training}, held_out)
            assert not judged & set(record.people_trained)
            assert set(record.people_held_out) == judged


# The order of a round


def pools(fresh=5, rehearsed=7):
    return (
        [Item("new", 0, place) for place in range(fresh)],
        [Item("old", 0, place) for place in range(rehearsed)],
    )


def rounds(mix, n):
    return [mix.draw(number) for number in range(n)]


def test_all_items_of_cases_are_every_place_in_every_view():
    assert items_of({"b": 1, "a": 2}, 2) == [
        Item("a", 0, 0),
        Item("a", 0, 1),
        Item("a", 1, 0),
        Item("a", 1, 1),
        Item("b", 0, 0),
        Item("b", 1, 0),
    ]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("per_round", [1, 3, 16])
def test_the_share_of_rehearsed_items_is_kept_to_half_an_item_over_any_number_of_rounds(share, per_round):
    mix = Mix(*pools(), share=share, per_round=per_round, seed=1)
    shown = 0
    for number, drawn in enumerate(rounds(mix, 40), 1):
        assert len(drawn) == per_round
        shown += sum(item.case == "old" for item in drawn)
        assert abs(shown - share * number * per_round) <= 0.5 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_no_item_comes_twice_before_all_of_its_pool_have_come(seed):
    mix = Mix(*pools(), share=0.4, per_round=4, seed=seed)
    counts = Counter()
    for drawn in rounds(mix, 50):
        counts.update(drawn)
        for pool in pools():
            seen = [counts[item] for item in pool]
            assert max(seen) - min(seen) <= 1


def test_a_round_does_not_depend_on_those_before_it():
    one, two = (Mix(*pools(), share=0.3, per_round=6, seed=2) for _ in range(2))
    expected = rounds(one, 12)
    assert [two.draw(number) for number in reversed(range(12))] == expected[::-1]


def test_another_seed_is_another_order_and_each_pass_has_its_own():
    fresh, _ = pools(fresh=20)
    orders = {rounds(Mix(fresh, [], share=0.3, per_round=20, seed=s), 3)[n] for s in range(3) for n in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == fresh for order in orders)


def test_rehearsed_and_fresh_items_are_mingled_within_a_round():
    fresh, rehearsed = pools(40, 40)
    places = np.zeros(20)
    for seed in range(200):
        places += [item.case == "old" for item in Mix(fresh, rehearsed, share=0.5, per_round=20, seed=seed).draw(0)]
    assert np.all(np.abs(places / 200 - 0.5) < 0.15)


def test_an_empty_pool_leaves_all_to_the_other():
    fresh, rehearsed = pools()
    assert {item.case for item in Mix(fresh, [], share=0.9, per_round=10, seed=0).draw(0)} == {"new"}
    assert {item.case for item in Mix([], rehearsed, share=0.1, per_round=10, seed=0).draw(3)} == {"old"}


def test_nothing_to_learn_from_is_a_sentence():
    with pytest.raises(InputError, match="found nothing to learn from"):
        Mix([], [], share=0.3, per_round=4, seed=0)
