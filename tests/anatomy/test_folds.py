import numpy as np
import pytest
from scipy import ndimage

from napari_pcs.anatomy.folds import MIN_PIECE_MM2, cut_into_pieces

UNIT = (1.0, 1.0, 1.0)
CUBE = np.ones((3, 3, 3), bool)


def t_shape(arm=14):
    """Three sheets of 29 mm height that meet in one line."""
    mask = np.zeros((40, 40, 40), bool)
    mask[20, 5:35, 5:34] = True
    mask[20 : 20 + arm, 20, 5:34] = True
    return mask


def sizes(labels):
    return np.bincount(labels.ravel())[1:]


def test_three_sheets_that_meet_become_three_pieces():
    labels = cut_into_pieces(t_shape(), UNIT)
    assert sorted(sizes(labels)) == pytest.approx([13 * 29, 14.5 * 29, 14.5 * 29], rel=0.12)


def test_a_sharp_bend_is_cut_and_a_gentle_one_is_not():
    sharp, gentle = np.zeros((2, 50, 50, 30), bool)
    sharp[10, 10:30, 5:25] = sharp[10:30, 10, 5:25] = True
    x, y = np.meshgrid(np.arange(50), np.arange(50), indexing="ij")
    gentle[(np.abs(np.hypot(x - 25, y - 25) - 15) <= 0.5) & (x > 25)] = True
    gentle[..., :5] = gentle[..., 25:] = False
    assert cut_into_pieces(sharp, UNIT).max() == 2
    assert cut_into_pieces(gentle, UNIT).max() == 1


def test_every_voxel_of_the_skeleton_gets_a_piece_and_no_other():
    mask = t_shape()
    labels = cut_into_pieces(mask, UNIT)
    np.testing.assert_array_equal(labels > 0, mask)
    assert set(np.unique(labels)) == set(range(labels.max() + 1))


def test_every_piece_is_connected():
    labels = cut_into_pieces(t_shape(), UNIT)
    for number in range(1, labels.max() + 1):
        assert ndimage.label(labels == number, CUBE)[1] == 1


def test_a_stub_is_absorbed_and_a_lonely_speck_stays_a_piece():
    mask = t_shape(arm=4)
    mask[21:24, 20, 11:] = False
    assert mask[21:24, 20].sum() < MIN_PIECE_MM2
    whole = cut_into_pieces(mask, UNIT)
    assert whole.max() == 1
    mask[35, 35, 30:36] = True
    labels = cut_into_pieces(mask, UNIT)
    assert sorted(sizes(labels)) == [6, sizes(whole)[0]]


def test_numbers_run_from_the_front_to_the_back():
    mask = np.zeros((30, 60, 30), bool)
    for y in (50, 30, 10):
        mask[5:20, y, 5:20] = True
    labels = cut_into_pieces(mask, UNIT)
    assert [int(labels[10, y, 10]) for y in (50, 30, 10)] == [1, 2, 3]


def test_the_same_skeleton_gives_the_same_numbers_wherever_it_lies_in_the_volume():
    mask = t_shape()
    first = cut_into_pieces(mask, UNIT)
    moved = cut_into_pieces(np.pad(mask, ((3, 0), (0, 5), (7, 2))), UNIT)
    np.testing.assert_array_equal(moved[3:, :-5, 7:-2], first)
    np.testing.assert_array_equal(cut_into_pieces(mask, UNIT), first)


def test_the_mirror_image_is_cut_alike():
    mask = t_shape()
    there = cut_into_pieces(mask[::-1], UNIT)[::-1]
    # Voxels on the very line where three sheets meet are as near to each: a tie may go the other way.
    assert np.sort(sizes(there)) == pytest.approx(np.sort(sizes(cut_into_pieces(mask, UNIT))), abs=3 * 29)
    assert there.max() == 3


def test_an_empty_skeleton_has_no_pieces():
    assert cut_into_pieces(np.zeros((5, 6, 7), bool), UNIT).max() == 0
