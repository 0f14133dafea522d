"""Records of the slices that were looked at."""

import numpy as np
import pytest

from napari_pcs.looked import Looked


def test_the_mask_holds_each_voxel_of_each_slice_and_no_other():
    looked = Looked.at(([1, 2, 5], [0], []))
    expected = np.zeros((6, 4, 3), bool)
    for x, y, z in np.ndindex(expected.shape):
        expected[x, y, z] = x in (1, 2, 5) or y == 0
    np.testing.assert_array_equal(looked.mask(expected.shape), expected)
    assert looked.x == ((1, 2), (5, 5))


@pytest.mark.parametrize("seed", range(5))
def test_the_union_of_two_records_is_that_of_their_masks(seed):
    rng = np.random.default_rng(seed)
    shape = (9, 8, 7)
    one, other = (Looked.at([np.flatnonzero(rng.random(n) < 0.4).tolist() for n in shape]) for _ in range(2))
    union = one.union(other)
    np.testing.assert_array_equal(union.mask(shape), one.mask(shape) | other.mask(shape))
    assert union == other.union(one)
    assert union.union(one) == union
    assert Looked().union(one) == one
    assert Looked.model_validate_json(union.model_dump_json()) == union
