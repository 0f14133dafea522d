import copy
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from napari_pcs.data.health import Failure, Tally, draw_or_replace
from napari_pcs.data.patch import Patch
from napari_pcs.errors import InputError


class Ten:
    """Ten constant images; some cannot be read."""

    spatial_dims, channels, digest = 2, 1, "ten"
    names = people = tuple(f"image-{n}" for n in range(10))

    def __init__(self, bad=(), error=None):
        self.bad, self.error = frozenset(bad), error

    def draw(self, index, size, rng):
        if index in self.bad:
            raise self.error or InputError(found="noise", expected="an image", path=self.names[index])
        return Patch(np.full((1, *size), index, np.float32), None, self.names[index])


def draw(source, index, seed=0, tries=10, among=None):
    return draw_or_replace(source, index, (2, 2), np.random.default_rng(seed), tries, among)


def test_what_can_be_read_is_drawn_as_it_is():
    patch, failures = draw(Ten(bad=[3]), 4)
    assert (patch.source, failures) == ("image-4", ())


def test_what_cannot_be_read_is_replaced_and_named():
    patch, failures = draw(Ten(bad=[3]), 3)
    assert patch.source != "image-3"
    assert [(f.index, f.name) for f in failures] == [(3, "image-3")]
    assert "noise" in failures[0].reason


def test_an_error_of_the_disk_counts_as_unreadable_too():
    _, failures = draw(Ten(bad=[3], error=OSError(5, "Input/output error")), 3)
    assert "Input/output error" in failures[0].reason


def test_the_same_generator_gives_the_same_replacement_and_others_give_all():
    source = Ten(bad=[3, 5])
    chosen = [draw(source, 3, seed)[0].source for seed in range(100)]
    assert chosen == [draw(source, 3, seed)[0].source for seed in range(100)]
    assert set(chosen) == {f"image-{n}" for n in range(10) if n not in {3, 5}}


def test_a_replacement_comes_from_those_that_may_stand_in():
    among = [1, 3, 8]
    assert {draw(Ten(bad=[3]), 3, seed, among=among)[0].source for seed in range(40)} == {"image-1", "image-8"}


def test_no_file_is_tried_twice_and_no_more_than_allowed():
    everything = Ten(bad=range(10))
    patch, failures = draw(everything, 3)
    assert patch is None
    assert sorted(f.index for f in failures) == list(range(10))
    assert len(draw(everything, 3, tries=4)[1]) == 4


@pytest.mark.parametrize("error", [TypeError("a mistake"), KeyError("x"), ValueError("y"), MemoryError()])
def test_a_mistake_in_a_program_is_not_swallowed(error):
    with pytest.raises(type(error)):
        draw(Ten(bad=[3], error=error), 3)


def test_another_process_draws_the_same_and_can_send_it_back():
    source = Ten(bad=[3, 4, 5])
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        patch, failures = pool.submit(draw, source, 3, 7).result()
    here, same = draw(copy.deepcopy(source), 3, 7)
    assert (patch.source, failures) == (here.source, same)


def failure(n):
    return Failure(n, f"image-{n}", "image: found noise, expected an image.")


def test_a_failure_that_many_samples_met_is_told_and_counted_once():
    tally = Tally(total=100, share=0.05)
    assert tally.add([failure(3), failure(3), failure(4)]) == (failure(3), failure(4))
    assert tally.add([failure(4)]) == ()
    assert tally.failures == (failure(3), failure(4))


def test_the_run_ends_when_more_than_the_share_failed_and_says_which_came_first():
    tally = Tally(total=100, share=0.05)
    tally.add(map(failure, (7, 1, 2, 3, 4)))
    with pytest.raises(InputError, match=r"6 of 100 files .*first: image-7: .*noise.*share of 0\.05"):
        tally.add([failure(5)])


@pytest.mark.parametrize(
    ("total", "share", "limit"),
    [(100, 0.29, 30), (100, 0.05, 6), (10, 0.05, 1), (10, 0.0, 1), (10, 1.0, 10), (1, 1.0, 1)],
)
def test_a_share_allows_as_many_as_it_says_but_never_all(total, share, limit):
    tally = Tally(total, share)
    assert tally.limit == limit
    assert tally.add(failure(n) for n in range(limit - 1)) == tuple(map(failure, range(limit - 1)))
    with pytest.raises(InputError):
        tally.add([failure(limit)])


def test_as_many_tries_as_the_limit_always_end_the_run():
    tally = Tally(total=10, share=0.3)
    patch, failures = draw(Ten(bad=range(10)), 0, tries=tally.limit)
    assert patch is None
    with pytest.raises(InputError, match="4 of 10"):
        tally.add(failures)
