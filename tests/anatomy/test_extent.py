import numpy as np
import pytest
from scipy import ndimage

from napari_pcs.anatomy.extent import bounds, box_around


@pytest.mark.parametrize("seed", range(5))
def test_bounds_and_box_agree_with_scipy(seed):
    mask = np.random.default_rng(seed).random((7, 9, 11)) > 0.99
    mask[3, 4, 5] = True
    (expected,) = ndimage.find_objects(mask.astype(int))
    assert bounds(mask) == [(s.start, s.stop - 1) for s in expected]
    assert box_around(mask, 0) == expected


def test_a_margin_widens_the_box_and_stops_at_the_volumes_edge():
    mask = np.zeros((10, 10, 10), bool)
    mask[1, 5, 8] = True
    assert box_around(mask, 3) == (slice(0, 5), slice(2, 9), slice(5, 10))
