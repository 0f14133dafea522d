import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from napari_pcs.bids import CaseKey
from napari_pcs.data.rehearsal import TuningRecord
from napari_pcs.errors import InputError, ModelError
from napari_pcs.labels import Hemisphere
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.people import cast

CONFIG = TuneConfig(held_out_share=0.25, batch_size=2, round_steps=3, patches=2, views=2, rehearsal_share=0.3)


def labelled(names, *, sides="LR", digest="first", partly_done=()):
    return [
        Labelled(
            CaseKey(name, "", Hemisphere(side)),
            f"{digest} {name} {side}",
            f"{digest} {name}",
            name in partly_done,
            load=None,
        )
        for name in names
        for side in sides
    ]


@pytest.fixture
def model(tmp_path):
    return SimpleNamespace(path=tmp_path, name="base")


def tuned_by(model, roles):
    """Leave in a model's folder what a tuning with these roles leaves."""
    roles.record.write(model.path)


def people(cases):
    return {case.key.subject for case in cases}


# Who trains and who judges


@pytest.mark.parametrize("count", [2, 4, 8, 12])
@pytest.mark.parametrize("seed", range(3))
def test_a_share_of_the_people_judge_and_nobody_is_on_both_sides(model, count, seed):
    cases = labelled("abcdefghijkl"[:count])
    roles = cast(cases, model, CONFIG.model_copy(update={"seed": seed}))
    assert not people(roles.training) & people(roles.held_out)
    assert sorted(c.name for c in roles.training + roles.held_out) == sorted(c.name for c in cases)
    assert len(people(roles.held_out)) == max(1, count // 4)
    assert Counter(c.key.subject for c in roles.held_out) == dict.fromkeys(people(roles.held_out), 2)


def test_roles_follow_from_people_and_seed_in_whatever_order_they_come(model):
    cases = labelled("abcdefgh")
    one, two = cast(cases, model, CONFIG), cast(cases[::-1], model, CONFIG)
    assert (one.training, one.held_out) == (two.training, two.held_out)
    others = {cast(cases, model, CONFIG.model_copy(update={"seed": n})).held_out for n in range(8)}
    assert len(others) > 1


def test_one_person_trains_and_nobody_judges(model):
    roles = cast(labelled("a"), model, CONFIG)
    assert people(roles.training) == {"a"}
    assert roles.held_out == ()


def test_through_any_number_of_tunings_nobody_changes_sides(model):
    """A session grows by two people before each of five tunings, every one of the model of the last."""
    sides = {}
    for count in (2, 4, 6, 8, 10):
        roles = cast(labelled("abcdefghij"[:count]), model, CONFIG.model_copy(update={"seed": count}))
        for side, cases in (("train", roles.training), ("judge", roles.held_out)):
            for name in people(cases):
                assert sides.setdefault(name, side) == side
        tuned_by(model, roles)
    assert Counter(sides.values())["judge"] == 2
    record = TuningRecord.read(model.path)
    assert dict.fromkeys(record.people_trained, "train") | dict.fromkeys(record.people_held_out, "judge") == sides


def test_from_random_weights_everybody_may_be_on_either_side_again(model):
    cases = labelled("abcdefgh")
    first = cast(cases, model, CONFIG)
    tuned_by(model, first)
    again = [cast(cases, model, CONFIG.model_copy(update={"strategy": "scratch", "seed": n})) for n in range(8)]
    assert any(people(roles.held_out) & people(first.training) for roles in again)
    assert all(roles.rehearsed == frozenset() for roles in again)
    assert not set(again[0].record.people_trained) & people(again[0].held_out)


def test_where_everybody_has_judged_before_it_is_a_sentence(model):
    first = cast(labelled("abcdefgh"), model, CONFIG)
    tuned_by(model, first)
    with pytest.raises(InputError, match=r"found 4 corrected cases, all of people who judged base or its ancestors"):
        cast(list(first.held_out), model, CONFIG)


def test_a_damaged_record_of_the_model_is_a_sentence(model):
    (model.path / "tuning.json").write_text('{"trained": {')
    with pytest.raises(ModelError, match=r"found a tuning\.json that cannot be read"):
        cast(labelled("ab"), model, CONFIG)


def test_partly_done_cases_train_and_never_judge(model):
    for seed in range(6):
        roles = cast(labelled("abcd", partly_done="ab"), model, CONFIG.model_copy(update={"seed": seed}))
        assert people(roles.held_out) < {"c", "d"}
        assert {"a", "b"} < people(roles.training)


# What is rehearsed


def test_what_a_model_has_learnt_and_is_as_it_was_is_rehearsed(model):
    first = cast(labelled("abcd"), model, CONFIG)
    assert first.rehearsed == frozenset()
    tuned_by(model, first)
    changed, *unchanged = first.training
    predicted = [replace(case, digest="predicted by another model") for case in unchanged]
    now = [replace(changed, labels="corrected again"), *predicted, *first.held_out, *labelled("e")]
    second = cast(now, model, CONFIG)
    assert second.rehearsed == {case.name for case in unchanged}
    assert second.record.trained[changed.name] == "corrected again"
    assert people(labelled("e")) <= people(second.training) | people(second.held_out)


def test_a_record_says_what_was_learnt_last_of_each_case_and_can_be_read_again(model):
    first = cast(labelled("abcd"), model, CONFIG)
    tuned_by(model, first)
    content = json.loads((model.path / "tuning.json").read_text())
    assert content["trained"] == {case.name: case.labels for case in first.training}
    assert content["held_out"] == sorted(case.name for case in first.held_out)
    assert TuningRecord.read(model.path) == first.record


# What a round draws


def test_a_round_has_a_batch_for_each_of_its_steps_and_nobody_who_judges(model):
    roles = cast(labelled("abcd"), model, CONFIG)
    for number in range(5):
        items = roles.draw(number)
        assert len(items) == CONFIG.batch_size * CONFIG.round_steps
        assert {item.case for item in items} <= set(roles.training)
        assert {item.view for item in items} <= {0, 1}
        assert {item.place for item in items} <= {0, 1}


def test_every_patch_of_every_view_comes_once_before_any_comes_again(model):
    roles = cast(labelled("abcd"), model, CONFIG)
    every = len(roles.training) * CONFIG.patches * CONFIG.views
    drawn = [(item.case.name, item.view, item.place) for n in range(every // 6 * 2) for item in roles.draw(n)]
    assert len(set(drawn[:every])) == every
    assert Counter(drawn[: 2 * every]) == dict.fromkeys(drawn[:every], 2)


def test_views_as_they_are_come_first_one_case_after_the_other(model):
    """So training begins when one case is prepared, and not when all of them are."""
    roles = cast(labelled("abcd"), model, CONFIG)
    drawn = [item for n in range(4) for item in roles.draw(n)]
    once = len(roles.training) * CONFIG.patches
    assert [item.view for item in drawn[: 2 * once]] == [0] * once + [1] * once
    names = [item.case.name for item in drawn[:once]]
    assert names == [
        name for case in sorted(roles.training, key=lambda c: c.name) for name in [case.name] * CONFIG.patches
    ]


def test_the_same_round_draws_the_same_and_another_something_else(model):
    roles = cast(labelled("abcd"), model, CONFIG)
    assert roles.draw(3) == cast(labelled("abcd"), model, CONFIG).draw(3)
    assert all(roles.draw(a) != roles.draw(b) for a, b in pairwise(range(4)))
    assert roles.draw(0) != cast(labelled("abcd"), model, CONFIG.model_copy(update={"seed": 1})).draw(0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_over_many_rounds_the_share_of_rehearsed_patches_is_the_one_asked_for(model, share):
    tuned_by(model, cast(labelled("abcd"), model, CONFIG))
    config = CONFIG.model_copy(update={"rehearsal_share": share})
    roles = cast(labelled("abcdefgh"), model, config)
    assert roles.rehearsed
    drawn = [item.case.name in roles.rehearsed for n in range(50) for item in roles.draw(n)]
    assert sum(drawn) / len(drawn) == pytest.approx(share, abs=0.5 / len(drawn))


def test_with_nothing_new_everything_is_rehearsed(model):
    first = cast(labelled("abcd"), model, CONFIG)
    tuned_by(model, first)
    roles = cast(labelled("abcd"), model, CONFIG)
    assert {item.case.name for n in range(9) for item in roles.draw(n)} == roles.rehearsed
