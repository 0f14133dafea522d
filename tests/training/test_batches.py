from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cohorts import damage, write_cohort
from pretraining import TISSUE

from napari_pcs.data.sources import open_data
from napari_pcs.objectives import find_objective
from napari_pcs.training.batches import VALIDATION, PatchBatches, slots_of
from napari_pcs.training.plan import load_objective_file

SIZE = (24, 16, 16)
TRAINING, HELD_OUT = (0, 2, 3), (1, 4)


def batches(data, *, rank=0, count=1, batch_size=2, times=3, tries=3, workers=0, seed=7, training=TRAINING):
    objective = find_objective(load_objective_file(TISSUE))
    processes = SimpleNamespace(rank=rank, count=count, device=torch.device("cpu"))
    return PatchBatches(
        open_data(data),
        training,
        HELD_OUT,
        objective,
        objective.config_class(),
        SIZE,
        times=times,
        batch_size=batch_size,
        tries=tries,
        seed=seed,
        processes=processes,
        workers=workers,
    )


def images(drawn):
    return [one.batch["image"] for one in drawn]


def same(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(("times", "size"), [(1, 2), (3, 2), (2, 3), (1, 8)])
def test_an_epoch_has_each_hemisphere_so_many_times_and_is_filled_up_to_whole_batches(times, size):
    slots = slots_of(5, TRAINING, times, size, seed=1)
    whole = [slot.hemisphere for slot in slots[: len(TRAINING) * times]]
    assert Counter(whole) == dict.fromkeys(TRAINING, times)
    assert len(slots) % size == 0
    assert 0 <= len(slots) - len(whole) < size
    assert {slot.hemisphere for slot in slots} <= set(TRAINING)
    assert [slot.number for slot in slots] == list(range(len(slots)))


def test_the_order_is_another_in_each_epoch_and_follows_from_the_seed():
    orders = [
        [s.hemisphere for s in slots_of(e, range(20), 1, 4, seed)] for e, seed in ((0, 1), (0, 1), (1, 1), (0, 2))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_the_steps_of_an_epoch_are_as_many_as_it_says(maps):
    found = batches(maps, batch_size=2, times=3)
    assert found.steps_per_epoch == 5
    assert [tuple(image.shape) for image in images(found.epoch(0))] == [(2, 1, *SIZE)] * 5


def test_the_shares_of_two_processes_together_are_the_batches_of_one(maps):
    one = images(batches(maps, batch_size=4).epoch(3))
    shares = [images(batches(maps, batch_size=2, rank=rank, count=2).epoch(3)) for rank in (0, 1)]
    assert same(one, [torch.cat(pair) for pair in zip(*shares, strict=True)])
    judged = images(batches(maps, batch_size=4).validation())
    shares = [images(batches(maps, batch_size=2, rank=rank, count=2).validation()) for rank in (0, 1)]
    assert same(judged, [torch.cat(pair) for pair in zip(*shares, strict=True)])


@pytest.mark.parametrize("first", [1, 3, 5])
def test_beginning_at_a_step_gives_what_going_on_would(maps, first):
    found = batches(maps)
    assert same(images(found.epoch(2))[first:], images(found.epoch(2, first)))


def test_reading_ahead_in_other_processes_gives_the_same(maps):
    assert same(images(batches(maps).epoch(1)), images(batches(maps, workers=2).epoch(1)))


def test_samples_neither_depend_on_torchs_global_generator_nor_change_it(maps):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(images(batches(maps).epoch(0)) + images(batches(maps).validation()))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*found)


def test_every_sample_has_noise_of_its_own(maps):
    together = torch.cat(images(batches(maps, times=4, training=(0,)).epoch(0)))
    assert len({image.numpy().tobytes() for image in together}) == len(together)


def test_those_who_judge_are_the_same_every_time_and_nobody_else(maps):
    found = batches(maps)
    first = images(found.validation())
    list(found.epoch(0))
    assert same(first, images(found.validation()))
    assert {slot.hemisphere for slot in slots_of(VALIDATION, HELD_OUT, 1, 2, seed=7)} == set(HELD_OUT)


@pytest.mark.parametrize("times", [1, 3])
def test_a_replacement_never_comes_from_the_other_side_of_the_split(tmp_path, times, monkeypatch):
    folder = write_cohort(tmp_path / "maps", 5)
    damage(folder, 0, 1)
    found = batches(folder, times=times)
    drawn_from = []
    draw = type(found._samples.source).draw

    def watched(self, index, size, rng):
        patch = draw(self, index, size, rng)
        drawn_from.append(index)
        return patch

    monkeypatch.setattr(type(found._samples.source), "draw", watched)
    failures = [f.index for drawn in found.epoch(0) for f in drawn.failures]
    assert set(drawn_from) == {2, 3}
    assert set(failures) == {0}
    drawn_from.clear()
    failures = [f.index for drawn in found.validation() for f in drawn.failures]
    assert set(drawn_from) == {4}
    assert set(failures) == {1}


def test_a_batch_is_empty_where_no_file_is_left_to_stand_in(tmp_path):
    folder = write_cohort(tmp_path / "maps", 5)
    damage(folder, *HELD_OUT)
    drawn = next(batches(folder, tries=9).validation())
    assert drawn.batch == {}
    assert {f.name for f in drawn.failures} == {"sub-01_hemi-L", "sub-04_hemi-L"}


def test_the_numbers_of_a_sample_follow_from_seed_epoch_and_number_alone(maps):
    """Drawn by hand, as the notes of the module say."""
    found = batches(maps)
    slot = slots_of(4, TRAINING, 3, 2, seed=7)[5]
    rng = np.random.default_rng([7, 4, 5])
    patch = open_data(maps).draw(slot.hemisphere, SIZE, rng)
    torch.manual_seed(int(rng.integers(2**63)))
    expected = find_objective("tissue").sample(patch, SIZE, find_objective("tissue").config_class(), rng)
    np.testing.assert_array_equal(images(found.epoch(4))[2][1].numpy(), expected["image"])
