import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number

from napari_pcs.anatomy.patch import _EIGHTHS, _gains, fill_holes
from napari_pcs.anatomy.thinning import thin

CUBE = np.ones((3, 3, 3), bool)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.8])
def test_the_sum_over_blocks_is_the_euler_number(density):
    mask = np.pad(np.random.default_rng(int(100 * density)).random((14, 15, 16)) < density, 1)
    gains, _ = _gains(np.zeros(mask.shape, np.int32), mask.astype(np.int32), 1, _EIGHTHS)
    assert gains[1] == 8 * euler_number(mask, 3)


def sheet(*holes):
    mask = np.zeros((16, 30, 30), bool)
    mask[8, 6:24, 6:24] = True
    for y, z, size in holes:
        mask[8, y : y + size, z : z + size] = False
    return mask


@pytest.mark.parametrize("axis", range(3))
def test_a_narrow_hole_is_closed_and_a_wide_one_stays(axis):
    mask = np.moveaxis(sheet((9, 9, 2), (14, 14, 6)), 0, axis)
    everywhere = np.ones(mask.shape, bool)
    filled = fill_holes(mask, everywhere, 1)
    thinned = thin(filled, np.zeros(mask.shape), anchors=mask)
    np.testing.assert_array_equal(thinned, np.moveaxis(sheet((14, 14, 6)), 0, axis))
    assert euler_number(mask, 3) == -1
    assert euler_number(thinned, 3) == 0


def test_a_hole_is_not_closed_where_it_may_not_be():
    mask = sheet((12, 12, 2))
    np.testing.assert_array_equal(fill_holes(mask, np.zeros(mask.shape, bool), 2), mask)


def test_sheets_that_pass_close_to_each_other_are_not_bridged():
    mask = sheet() | np.roll(sheet(), 3, axis=0)
    filled = fill_holes(mask, np.ones(mask.shape, bool), 2)
    np.testing.assert_array_equal(filled, mask)
    # The closing itself would bridge them.
    assert ndimage.label(ndimage.binary_closing(mask, CUBE, iterations=2), CUBE)[1] == 1


@pytest.mark.parametrize("seed", range(4))
def test_filling_never_adds_tunnels_cavities_or_joins_pieces(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 24, 24)), 1.2)
    mask = np.pad(abs(noise) < 0.025, 4)
    filled = fill_holes(mask, np.ones(mask.shape, bool), 2)
    counts = []
    for thing in (mask, filled):
        parts, cavities = ndimage.label(thing, CUBE)[1], ndimage.label(~thing)[1] - 1
        counts.append((parts, parts + cavities - euler_number(thing, 3), cavities))
    before, after = counts
    assert after[0] == before[0]
    assert after[1] <= before[1]
    assert after[2] <= before[2]
