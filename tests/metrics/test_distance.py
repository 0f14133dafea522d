import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

from napari_pcs.metrics.distance import surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 1.0, 1.6)]


def blob(seed, shape=(18, 20, 22)):
    """Irregular blob that stays clear of the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    mask = noise > np.quantile(noise, 0.75)
    mask[[0, -1]] = mask[:, [0, -1]] = mask[:, :, [0, -1]] = False
    return mask


def one_hot(mask):
    return torch.from_numpy(mask[None, None]).float()


def surface_points(mask, spacing):
    """Voxels with one of six neighbours outside, found one by one."""
    steps = [s for a in range(3) for s in (np.eye(3, dtype=int)[a], -np.eye(3, dtype=int)[a])]
    padded = np.pad(mask, 1)
    found = [v for v in np.argwhere(mask) if not all(padded[tuple(v + 1 + s)] for s in steps)]
    return np.array(found) * spacing


def brute_force(one, two, spacing):
    """Distances of every surface voxel to all of the other surface, both ways."""
    a, b = surface_points(one, spacing), surface_points(two, spacing)
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    return apart.min(axis=1), apart.min(axis=0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_agree_with_monai(seed, spacing):
    one, two = blob(seed), blob(seed + 10)
    found = surface_distances(one, two, spacing)
    pair = (one_hot(one), one_hot(two))
    options = {"include_background": True, "spacing": spacing}
    assert found.hd_mm == pytest.approx(float(compute_hausdorff_distance(*pair, **options)), abs=1e-4)
    hd95 = float(compute_hausdorff_distance(*pair, percentile=95, **options))
    assert found.hd95_mm == pytest.approx(hd95, abs=1e-4)
    assd = float(compute_average_surface_distance(*pair, symmetric=True, **options))
    assert found.assd_mm == pytest.approx(assd, abs=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.5])
def test_every_distance_and_the_surface_dice_agree_with_a_brute_force_search(spacing, tolerance):
    one, two = blob(3, (9, 10, 11)), blob(4, (9, 10, 11))
    found, expected = surface_distances(one, two, spacing), brute_force(one, two, spacing)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), atol=1e-9)
    near = sum(int((d <= tolerance).sum()) for d in expected)
    assert found.nsd(tolerance) == pytest.approx(near / sum(map(len, expected)), abs=1e-12)
    assert 0 < found.nsd(1.0) < 1


def test_all_figures_are_the_same_when_the_masks_are_swapped():
    one, two = blob(5), blob(6)
    there, back = (surface_distances(*pair, (0.7, 1.0, 1.6)) for pair in ((one, two), (two, one)))
    figures = [(d.hd_mm, d.hd95_mm, d.assd_mm, d.nsd(1.0)) for d in (there, back)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-12)


@pytest.mark.parametrize("axis", range(3))
def test_a_sheet_moved_by_three_voxels_has_every_distance_at_three_voxels(axis):
    spacing = (0.8, 1.1, 1.3)
    one = np.moveaxis(np.zeros((20, 20, 20), bool), 0, axis)
    moved = one.copy()
    np.moveaxis(one, axis, 0)[5, 4:16, 4:16] = True
    np.moveaxis(moved, axis, 0)[8, 4:16, 4:16] = True
    found = surface_distances(one, moved, spacing)
    expected = 3 * spacing[axis]
    assert (found.hd_mm, found.hd95_mm, found.assd_mm) == pytest.approx((expected,) * 3)
    assert found.nsd(expected - 0.01) == 0
    assert found.nsd(expected + 0.01) == 1


def test_a_single_outlier_is_in_the_hausdorff_distance_and_not_in_its_95th_percentile():
    reference = np.zeros((12, 40, 40), bool)
    reference[5, 5:35, 5:35] = True
    predicted = reference.copy()
    predicted[10, 20, 20] = True
    found = surface_distances(predicted, reference, (1.0, 1.0, 1.0))
    # 901 surface voxels, one of them 5 mm away: the maximum sees it, a low percentile would be 0 as well.
    assert found.hd_mm == 5
    assert found.hd95_mm == 0
    assert found.assd_mm == pytest.approx(5 / (901 + 900))


def test_the_95th_percentile_is_the_high_end_of_the_distances():
    reference = np.zeros((4, 4, 120), bool)
    reference[1, 1, 0] = True
    predicted = np.zeros_like(reference)
    predicted[1, 1, :101] = True
    found = surface_distances(predicted, reference, (1.0, 1.0, 1.0))
    assert found.hd95_mm == pytest.approx(95)
    assert found.hd_mm == 100


def test_distances_grow_with_the_voxel_size():
    one, two = blob(7), blob(8)
    small, large = (surface_distances(one, two, (s,) * 3) for s in (1.0, 2.5))
    assert large.hd_mm == pytest.approx(2.5 * small.hd_mm)
    assert large.assd_mm == pytest.approx(2.5 * small.assd_mm)


def test_a_mask_at_the_border_of_the_image_still_has_a_surface():
    full = np.ones((4, 5, 6), bool)
    found = surface_distances(full, full, (1.0, 1.0, 1.0))
    assert len(found.to_reference) == 4 * 5 * 6 - 2 * 3 * 4
    assert found.hd_mm == 0
    assert found.nsd(0) == 1


def test_there_are_no_distances_to_an_empty_mask():
    mask, empty = blob(0), np.zeros((18, 20, 22), bool)
    for pair in ((mask, empty), (empty, mask), (empty, empty)):
        assert surface_distances(*pair, (1.0, 1.0, 1.0)) is None
