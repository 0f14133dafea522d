import itertools

import numpy as np
import pytest
import torch

from napari_pcs.anatomy.mni import TEMPLATE_LENGTH_MM
from napari_pcs.anatomy.priors import shipped_priors
from napari_pcs.commissures import AC_MNI
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.training import places as module
from napari_pcs.training.examples import Example, build_example
from napari_pcs.training.places import Box, places

SHAPE = (48, 64, 32)
FAR = (-500.0, -500.0, -500.0)
"""An origin so far away that nobody has a paracingulate sulcus in the image."""


def example(shape=SHAPE, box=None, *, changed=(), pcs=(), looked=None, origin=FAR):
    """Make an example by hand: changed and PCS voxels are listed, everything is looked at if left out."""
    targets = torch.zeros(1, 2, *shape)
    for voxel in pcs:
        targets[(0, slice(None), *voxel)] = 1
    marks = np.zeros(shape, dtype=bool)
    marks[tuple(np.array(changed, dtype=int).reshape(-1, 3).T)] = True
    return Example(
        name="sub-ada_hemi-L",
        subject="ada",
        image=torch.zeros(1, 4, *shape),
        targets=targets,
        looked=torch.ones(1, 1, *shape, dtype=torch.bool) if looked is None else torch.from_numpy(looked)[None, None],
        class_index=torch.zeros(1, dtype=torch.int64),
        changed=marks,
        box=box or shape,
        origin=origin,
    )


def all_boxes(shape, side, stride):
    """Every box, found by walking through the image voxel by voxel."""
    sides = tuple(min(n, side) for n in shape)
    starts = [[a for a in range(n) if a % stride == 0 and a + s <= n] for n, s in zip(shape, sides, strict=True)]
    return [Box(start, sides) for start in itertools.product(*starts)]


def cut(array, box):
    return array[..., *(slice(a, a + n) for a, n in zip(box.start, box.side, strict=True))]


def held(array, box):
    """What is judged in a box: all of it but the four voxels at faces that are not the image's own."""
    (x, y, z), ends = box.start, [a + n for a, n in zip(box.start, box.side, strict=True)]
    low = [0 if a == 0 else a + 4 for a in (x, y, z)]
    high = [e if e == n else e - 4 for e, n in zip(ends, array.shape[-3:], strict=True)]
    return array[..., low[0] : high[0], low[1] : high[1], low[2] : high[2]]


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(made, seeds, side=16, stride=8, count=1):
    return [places(made, side, count, stride, rng(seed)) for seed in range(seeds)]


# Which boxes there are


@pytest.mark.parametrize(("side", "stride"), [(16, 8), (32, 16), (32, 8), (16, 16)])
def test_boxes_are_aligned_inside_the_image_and_all_different(side, stride):
    known = all_boxes(SHAPE, side, stride)
    found = places(example(), side, 1000, stride, rng())
    assert sorted(found, key=lambda box: box.start) == known
    assert len(set(found)) == len(found) > 1


@pytest.mark.parametrize("count", [1, 3])
def test_there_are_as_many_as_were_asked_for(count):
    assert len(places(example(), 16, count, 8, rng())) == count


def test_along_an_axis_on_which_the_image_is_shorter_a_box_is_as_long_as_the_image():
    # No side of 24 is a multiple of the stride of 32, and none has to be where there is but one place.
    found = places(example((24, 128, 64)), 64, 100, 32, rng())
    assert {box.side for box in found} == {(24, 64, 64)}
    assert sorted(box.start for box in found) == [(0, 0, 0), (0, 32, 0), (0, 64, 0)]


@pytest.mark.parametrize("changed", [(), ((40, 60, 30),)])
def test_side_0_is_the_whole_image_once(changed):
    assert places(example(changed=changed), 0, 4, 32, rng()) == (Box((0, 0, 0), SHAPE),)


@pytest.mark.parametrize(("side", "stride", "shape"), [(20, 8, SHAPE), (32, 32, (48, 64, 32))])
def test_boxes_that_would_not_reach_the_end_are_refused_with_advice(side, stride, shape):
    with pytest.raises(InputError, match=rf"found patches of {side} voxels in an image of {shape[0]} x .* whole hemi"):
        places(example(shape), side, 2, stride, rng())


def test_the_same_random_numbers_give_the_same_boxes_and_others_others():
    made = example(pcs=[(20, 40, 16)], changed=[(5, 5, 5)])
    assert places(made, 16, 6, 8, rng(4)) == places(made, 16, 6, 8, rng(4))
    assert len(set(drawn(made, 6, count=4))) > 1


# The first one


@pytest.mark.parametrize("seed", range(6))
def test_the_first_holds_as_many_changed_voxels_as_any_box_can(seed):
    random = rng(seed)
    middles = np.array(SHAPE) * random.random((2, 1, 3))
    spots = (middles + 4 * random.standard_normal((2, 20, 3))).reshape(-1, 3)
    made = example(changed=np.clip(spots, 0, np.array(SHAPE) - 1).astype(int))
    most = max(held(made.changed, box).sum() for box in all_boxes(SHAPE, 16, 8))
    first, *_ = places(made, 16, 3, 8, rng())
    assert held(made.changed, first).sum() == most > 0


def test_of_boxes_that_hold_the_same_changes_the_first_is_the_one_around_their_middle():
    middle = np.array((24, 32, 16))
    made = example(changed=[middle])
    (first,) = places(made, 16, 1, 8, rng())
    best = min(
        np.linalg.norm(np.array(b.start) + 7.5 - middle) for b in all_boxes(SHAPE, 16, 8) if held(made.changed, b).any()
    )
    assert np.linalg.norm(np.array(first.start) + 7.5 - middle) == best


def test_every_change_is_in_a_box_when_there_are_enough_of_them():
    """Two changed spots too far apart for one box: the second box that is drawn holds the other."""
    made = example(changed=[(2, 2, 2), (2, 2, 3), (45, 60, 30)])
    for first, second in drawn(made, 20, count=2):
        assert held(made.changed, first).sum() == 2
        assert held(made.changed, second).sum() == 1


# The others


def by_hand(made, side, stride):
    """Chance of every box, from sums over its voxels."""
    boxes = all_boxes(made.changed.shape, side, stride)
    own = np.zeros(made.changed.shape, dtype=bool)
    cut(own, Box((0, 0, 0), made.box))[...] = True
    looked = made.looked[0, 0].numpy() & own
    rows = []
    for values in (made.targets[0, 1].numpy(), module._expected(made), made.changed):
        sums = np.array([float(held(values * looked, box).sum(dtype=np.float64)) for box in boxes])
        rows.append(sums / sums.sum() if sums.any() else sums)
    return boxes, sum(rows)


def test_boxes_are_drawn_as_often_as_what_they_hold_says(monkeypatch):
    """PCS in one place, other people's in another; no change, so that the first one is drawn too."""
    made = example(pcs=[(4, 4, 4), (4, 4, 5), (30, 40, 20)])
    expected = np.zeros(SHAPE, dtype=np.float32)
    expected[40:44, 50:60, 24:30], expected[30, 10, 10] = 0.25, 0.8
    monkeypatch.setattr(module, "_expected", lambda _: expected)
    boxes, chance = by_hand(made, 16, 8)
    chance = dict(zip(boxes, chance / chance.sum(), strict=True))
    count = 1000
    random = rng(1)
    found = [places(made, 16, 1, 8, random)[0] for _ in range(count)]
    for box, share in chance.items():
        # Four standard deviations of a binomial share.
        assert abs(found.count(box) / count - share) <= 4 * np.sqrt(share * (1 - share) / count)


def test_labels_other_people_and_changes_left_over_count_the_same(monkeypatch):
    """Each of the three in a corner of its own, in very different amounts: each is drawn in a third of the cases."""
    made = example(
        pcs=[(x, 2, 2) for x in range(7)],
        changed=[*itertools.product(range(40, 44), range(4), range(4)), (2, 60, 30)],
    )
    expected = np.zeros(SHAPE, dtype=np.float32)
    expected[44:, 60:, 28:] = 1e-4
    monkeypatch.setattr(module, "_expected", lambda _: expected)
    corners = {(0, 0, 0): 0, (32, 48, 16): 0, (0, 48, 16): 0}
    for _, second in drawn(made, 300, side=16, stride=16, count=2):
        corners[second.start] += 1
    assert sum(corners.values()) == 300
    assert all(abs(n / 300 - 1 / 3) < 4 * np.sqrt(2 / 9 / 300) for n in corners.values())


def test_where_a_pcs_is_out_of_the_question_every_place_is_as_good_as_another():
    found = [boxes[0] for boxes in drawn(example(), 200, side=32, stride=16)]
    assert set(found) == set(all_boxes(SHAPE, 32, 16))


# What does not count


def test_no_box_lies_in_the_padding_only():
    made = example(box=(17, 30, 9))
    own = np.zeros(SHAPE, dtype=bool)
    own[:17, :30, :9] = True
    expected = {b for b in all_boxes(SHAPE, 16, 8) if held(own, b).any()}
    assert set(places(made, 16, 1000, 8, rng())) == expected


def test_no_box_lies_where_nobody_looked():
    looked = np.zeros(SHAPE, dtype=bool)
    looked[:, 20:23] = True
    looked[:, :, 30:] = True  # padding, which is background whoever looks
    made = example(box=(48, 64, 30), looked=looked)
    for box in places(made, 16, 1000, 8, rng()):
        assert held(looked & (np.arange(SHAPE[2]) < 30), box).any()


def test_changes_and_pcs_that_nobody_looked_at_draw_nothing():
    looked = np.zeros(SHAPE, dtype=bool)
    looked[:16, :16, :16] = True
    made = example(looked=looked, changed=[(40, 60, 30)], pcs=[(40, 40, 30)])
    assert places(made, 16, 10, 16, rng()) == (Box((0, 0, 0), (16, 16, 16)),)


def test_a_hemisphere_that_nobody_looked_at_is_a_sentence():
    looked = np.ones(SHAPE, dtype=bool)
    looked[:16, :16, :16] = False
    made = example(box=(16, 16, 16), looked=looked)
    with pytest.raises(InputError, match="found nothing of sub-ada_hemi-L that was looked at"):
        places(made, 16, 2, 8, rng())


# Where other people have theirs


def test_the_frequency_map_is_read_with_its_anterior_commissure_at_the_origin_and_scaled():
    """The AC of the template is where the origin is; a hemisphere of half its length is half as large everywhere."""
    origin = np.array((70.0, 100.0, 60.0))
    length = round(TEMPLATE_LENGTH_MM / 2)
    made = example((72, 192, 128), (72, length, 128), origin=tuple(origin))
    found = module._expected(made)
    scale = TEMPLATE_LENGTH_MM / length
    random = rng(3)
    for voxel in random.integers((40, 64, 32), (72, 160, 128), (40, 3)):
        corner = voxel // module._LATTICE * module._LATTICE
        mm = np.array(AC_MNI) + scale * (corner + (module._LATTICE - 1) / 2 - origin)
        share = shipped_priors(Hemisphere.LEFT).pcs.at(mm[None])[0] if mm[0] > -module._MEDIAL_MM else 0
        assert found[tuple(voxel)] == pytest.approx(share, abs=1e-6)
    highest = (np.array(np.unravel_index(found.argmax(), found.shape)) - origin) * scale + AC_MNI
    # The paracingulate sulcus: left of the midline, before the AC and above it.
    assert -15 < highest[0] < 0
    assert 20 < highest[1] < 60
    assert 0 < highest[2] < 50


def test_moving_the_origin_moves_what_is_expected():
    one = module._expected(example((64, 160, 128), origin=(60.0, 90.0, 50.0)))
    two = module._expected(example((64, 160, 128), origin=(60.0, 98.0, 46.0)))
    np.testing.assert_allclose(two[:, 8:, :-4], one[:, :-8, 4:], atol=1e-6)
    assert one.max() > 0.1


def test_of_a_hemisphere_without_labels_of_a_pcs_boxes_lie_at_the_medial_frontal_wall():
    made = build_example(phantom(pcs_length_mm=0), position=True, multiple=32)
    centres = np.array([box.start for boxes in drawn(made, 30, side=32, stride=16) for box in boxes]) + 15.5
    mm = centres - made.origin
    # Medial, and before the middle of the hemisphere; a box is 32 mm long.
    assert np.median(mm[:, 0]) > -32
    assert (mm[:, 1] > -10).mean() > 0.8
    assert np.median(mm[:, 1]) > 10


def test_a_phantoms_pcs_is_in_the_first_box():
    made = build_example(phantom(pcs_length_mm=30), position=True, multiple=32)
    first, *_ = places(made, 64, 4, 16, rng())
    assert held(made.targets[0, 1], first).sum() == made.targets[0, 1].sum() > 0
