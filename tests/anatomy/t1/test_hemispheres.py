import numpy as np
import pytest
from scipy import ndimage

from napari_pcs.anatomy.t1.hemispheres import Shares, check_hemispheres, part
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

SPACING = (2.0, 2.0, 2.0)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = -80, -80, -60


def _box(x, y, z):
    mask = np.zeros((80, 80, 80), dtype=bool)
    mask[slice(*x), slice(*y), slice(*z)] = True
    return mask


@pytest.fixture
def brain():
    """Two blocks with a fissure one voxel wide, and a third below behind a dark tent; classes and brightness."""
    left, right = _box((10, 40), (10, 70), (30, 70)), _box((41, 71), (10, 70), (30, 70))
    hind = _box((25, 56), (15, 35), (12, 29))
    classes = np.where(left | right | hind, 2, 1).astype(np.uint8)
    classes[ndimage.binary_erosion(left | right | hind, iterations=3)] = 3
    brightness = np.array([0, 30, 70, 100], dtype=np.float32)[classes]
    return left, right, hind, classes, brightness


def _shares(*masks, shift=0):
    blurred = [ndimage.gaussian_filter(np.roll(m, shift, axis=0).astype(np.float32), 2) for m in masks]
    return Shares(*blurred)


def test_parts_meet_in_the_dark_although_the_averages_lie_2_mm_off(brain):
    left, right, hind, classes, brightness = brain
    parts = part(classes, brightness, _shares(left, right, hind, shift=1), SPACING)
    for hemisphere, mask in ((Hemisphere.LEFT, left), (Hemisphere.RIGHT, right)):
        found = parts[hemisphere] > 0
        assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.98
        assert not (found & hind).any()


def test_grey_and_white_keep_their_class_and_fluid_is_no_tissue(brain):
    left, right, hind, classes, brightness = brain
    parts = part(classes, brightness, _shares(left, right, hind), SPACING)
    for maps in parts.values():
        np.testing.assert_array_equal(classes[maps == 1], 2)
        np.testing.assert_array_equal(classes[maps == 2], 3)


def test_a_mirrored_brain_gives_mirrored_hemispheres(brain):
    left, right, hind, classes, brightness = brain
    parts = part(classes, brightness, _shares(left, right, hind), SPACING)
    mirrored = part(classes[::-1], brightness[::-1], _shares(right[::-1], left[::-1], hind[::-1]), SPACING)
    np.testing.assert_array_equal(mirrored[Hemisphere.LEFT], parts[Hemisphere.RIGHT][::-1])


def test_a_speck_away_from_the_brain_is_dropped(brain):
    left, right, hind, classes, brightness = brain
    classes[5:7, 40:42, 50:52] = 2
    shares = _shares(left | _box((5, 7), (40, 42), (50, 52)), right, hind)
    parts = part(classes, brightness, shares, SPACING)
    assert not parts[Hemisphere.LEFT][5:7, 40:42, 50:52].any()


def test_hemispheres_with_a_fissure_pass(brain):
    left, right, *_ = brain
    check_hemispheres(
        {Hemisphere.LEFT: left.astype(np.uint8), Hemisphere.RIGHT: right.astype(np.uint8)}, np.eye(4), AFFINE
    )


def test_half_a_hemisphere_is_refused_with_its_share(brain):
    left, right, *_ = brain
    half = left & _box((0, 80), (0, 40), (0, 80))
    with pytest.raises(InputError, match="left hemisphere with 50%"):
        check_hemispheres(
            {Hemisphere.LEFT: half.astype(np.uint8), Hemisphere.RIGHT: right.astype(np.uint8)}, np.eye(4), AFFINE
        )


def test_hemispheres_grown_together_are_refused(brain):
    left, right, *_ = brain
    joined = ndimage.binary_dilation(left, iterations=1)
    with pytest.raises(InputError, match="100% of the midline"):
        check_hemispheres(
            {Hemisphere.LEFT: joined.astype(np.uint8), Hemisphere.RIGHT: right.astype(np.uint8)}, np.eye(4), AFFINE
        )
