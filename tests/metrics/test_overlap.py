import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, compute_dice
from scipy import ndimage
from skimage.morphology import skeletonize

from napari_pcs.anatomy.thinning import thin
from napari_pcs.metrics import overlap as module
from napari_pcs.metrics.overlap import cldice, dice

EMPTY = np.zeros((6, 7, 8), bool)


def masks(seed, shape=(11, 12, 13), share=0.3):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < share, rng.random(shape) < share


def box(shape, *slices):
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def test_dice_of_two_overlapping_boxes_is_what_a_hand_computes():
    one = box((9, 9, 9), slice(0, 4), slice(0, 3), slice(0, 2))  # 24 voxels
    two = box((9, 9, 9), slice(2, 5), slice(1, 3), slice(0, 3))  # 18 voxels, 2 x 2 x 2 = 8 shared
    assert dice(one, two) == pytest.approx(2 * 8 / (24 + 18), abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_dice_agrees_with_monai(seed):
    one, two = masks(seed, share=0.1 + 0.15 * seed)
    theirs = compute_dice(*(torch.from_numpy(m[None, None]).float() for m in (one, two)), include_background=True)
    assert dice(one, two) == pytest.approx(float(theirs), abs=1e-6)
    metric = DiceMetric(include_background=True)
    metric(torch.from_numpy(one[None, None]).float(), torch.from_numpy(two[None, None]).float())
    assert dice(one, two) == pytest.approx(float(metric.aggregate()), abs=1e-6)


@pytest.mark.parametrize("figure", [dice, cldice])
def test_a_mask_agrees_fully_with_itself_and_not_at_all_with_a_distant_one(figure):
    mask = box((20, 20, 20), slice(2, 8), slice(2, 7), slice(2, 6))
    assert figure(mask, mask) == 1
    assert figure(mask, np.roll(mask, 10, axis=0)) == 0


@pytest.mark.parametrize("figure", [dice, cldice])
def test_two_empty_masks_have_no_figure_and_one_empty_mask_gives_0(figure):
    mask = box(EMPTY.shape, slice(1, 4), slice(1, 4), slice(1, 4))
    assert figure(EMPTY, EMPTY) is None
    assert figure(EMPTY, mask) == 0
    assert figure(mask, EMPTY) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_medial_surface_of_what_is_beside_a_mask_is_that_of_the_whole_map(seed):
    """Blobs at faces of the map and within it, against thinning of all of it."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((30, 34, 38)), 2)
    mask = noise > np.quantile(noise, 0.85)
    mask[:, :, 20:] = False
    if seed:
        mask[:5] = False
    np.testing.assert_array_equal(module._medial(mask), thin(mask, ndimage.distance_transform_edt(mask)))


@pytest.mark.parametrize("figure", [dice, cldice])
def test_figures_do_not_depend_on_the_order_of_the_masks(figure):
    one = box((16, 16, 16), slice(2, 12), slice(3, 9), slice(4, 9))
    two = box((16, 16, 16), slice(4, 14), slice(3, 7), slice(5, 12))
    assert 0 < figure(one, two) < 1
    assert figure(one, two) == pytest.approx(figure(two, one), abs=1e-15)


def test_cldice_of_sheets_one_voxel_thick_is_the_dice():
    # A sheet is its own medial surface: precision 30/50, sensitivity 30/50.
    one = box((5, 12, 12), 2, slice(1, 6), slice(1, 11))
    two = box((5, 12, 12), 2, slice(3, 8), slice(1, 11))
    assert cldice(one, two) == pytest.approx(0.6)
    assert cldice(one, two) == pytest.approx(dice(one, two))


def test_cldice_forgives_thickness_that_dice_does_not():
    thin = box((11, 20, 20), 5, slice(2, 18), slice(2, 18))
    thick = box((11, 20, 20), slice(4, 7), slice(2, 18), slice(2, 18))
    assert dice(thin, thick) == 0.5
    # Not 1: the medial surface of a plate runs out into its edges.
    assert cldice(thin, thick) > 0.8


def test_cldice_of_tubes_agrees_with_skimages_skeleton():
    def tube(centre):
        _, y, z = np.indices((30, 17, 17))
        inside = (y - centre) ** 2 + (z - 8) ** 2 <= 9
        inside[:2] = inside[-2:] = False
        return inside

    one, two = tube(8), tube(8)
    two[15:] = False
    share = two[skeletonize(one)].mean()
    expected = 2 * share / (1 + share)  # all of the half tube's medial line lies in the whole one
    assert cldice(one, two) == pytest.approx(expected, abs=0.06)
