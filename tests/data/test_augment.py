import numpy as np
import pytest
from pydantic import ValidationError
from scipy.interpolate import RegularGridInterpolator

from napari_pcs.data.augment import Augmentation3D, augment, draw_matrix, look
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError

OFF = {"rotation_deg": 0, "scaling": 0, "ribbon": 0, "blur_mm": 0, "grey": 0, "contrast": 0, "gain": 0, "noise": 0}
SIZE = (32, 32, 32)
REGION = (40, 40, 40)


def only(**strengths):
    return Augmentation3D(**{**OFF, "blocks": 0, **strengths})


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def patch():
    """Around the medial wall, which has fluid on one side only."""
    tissue = phantom().tissue.data.astype(np.float32) / 2
    return tissue[None, :40, 90:130, 70:110]


def mirror(image):
    return image[:, ::-1].copy()


def peak_correlation(one, other):
    """Largest correlation of two images over all shifts."""
    one, other = ((a - a.mean()) / a.std() for a in (one, other))
    shape = [a + b for a, b in zip(one.shape, other.shape, strict=True)]
    spectrum = np.fft.rfftn(one, shape, axes=(0, 1, 2)) * np.conj(np.fft.rfftn(other, shape, axes=(0, 1, 2)))
    return np.fft.irfftn(spectrum, shape, axes=(0, 1, 2)).max()


def test_no_matrix_ever_mirrors_and_no_axis_leaves_the_angle():
    settings, random = Augmentation3D(), rng()
    furthest = 0.0
    for _ in range(3000):
        matrix = draw_matrix(random, settings)
        assert np.linalg.det(matrix) > 0
        scales = np.linalg.norm(matrix, axis=0)
        assert np.all(np.abs(scales - 1) <= 0.1 + 1e-12)
        rotation = matrix / scales
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        angles = np.degrees(np.arccos(np.clip(np.diag(rotation), -1, 1)))
        assert np.all(angles <= 15 + 1e-9)
        furthest = max(furthest, angles[0])
    assert furthest > 13


def test_views_of_an_asymmetric_phantom_look_like_it_and_never_like_its_mirror_image(patch):
    random = rng(1)
    for _ in range(40):
        view = augment(patch, SIZE, random, Augmentation3D())[0]
        assert peak_correlation(patch[0], view) > 1.05 * peak_correlation(mirror(patch)[0], view)


def test_what_changes_values_only_commutes_with_a_mirror_and_what_moves_tissue_does_not(patch):
    values = only(grey=0.1, contrast=0.2)
    moves = only(rotation_deg=15)
    for seed in range(5):
        for settings, commutes in ((values, True), (moves, False)):
            of_mirror = augment(mirror(patch), REGION, rng(seed), settings)
            mirrored = mirror(augment(patch, REGION, rng(seed), settings))
            assert np.allclose(of_mirror, mirrored, atol=1e-6) == commutes


def test_without_any_strength_a_view_is_a_piece_of_the_patch(patch):
    np.testing.assert_allclose(augment(patch, REGION, rng(), only()), patch, atol=1e-6)


def test_a_view_is_the_linear_interpolation_of_the_patch_on_turned_axes(patch):
    settings = only(rotation_deg=15, scaling=0.1)
    view = augment(patch, REGION, rng(3), settings)
    random = rng(3)
    random.uniform(np.zeros(3), np.zeros(3))
    matrix = draw_matrix(random, settings)
    middle = (np.array(REGION) - 1) / 2
    places = np.stack(np.meshgrid(*[np.arange(n) for n in REGION], indexing="ij"), axis=-1)
    interpolator = RegularGridInterpolator([np.arange(n) for n in REGION], patch[0], bounds_error=False, fill_value=0)
    expected = interpolator((places - middle) @ matrix.T + middle)
    np.testing.assert_allclose(view[0], expected, atol=1e-5)


def test_two_channels_are_placed_alike(patch):
    both = augment(np.concatenate([patch, 1 - patch]), SIZE, rng(), only(rotation_deg=8))
    inside = both.sum(axis=0)
    np.testing.assert_allclose(inside[8:-8, 8:-8, 8:-8], 1, atol=1e-5)


def test_views_stay_in_range_and_depend_on_the_generator_alone(patch):
    before = patch.copy()
    one, again, other = (augment(patch, SIZE, rng(seed), Augmentation3D()) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).mean() > 0.02
    assert one.shape == (1, *SIZE)
    assert one.dtype == np.float32
    assert one.min() >= 0
    assert one.max() <= 1
    np.testing.assert_array_equal(patch, before)


def test_a_small_view_comes_from_anywhere_in_a_large_patch():
    ramp = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32)[:, None, None], REGION)[None]
    random = rng()
    means = [augment(ramp, (8, 8, 8), random, only()).mean() for _ in range(300)]
    assert min(means) < 0.12
    assert max(means) > 0.88


def test_the_ribbon_grows_thicker_and_thinner_while_deep_white_and_fluid_stay():
    slab = np.zeros((1, *SIZE), dtype=np.float32)
    slab[:, 12:15], slab[:, 15:] = 0.5, 1
    thickness = []
    for seed in range(40):
        view = look(slab.copy(), rng(seed), only(ribbon=0.12))[0]
        np.testing.assert_array_equal(view[:9], 0)
        np.testing.assert_array_equal(view[19:], 1)
        # All that is not fluid less all that is white, with the shares of the voxels at the borders.
        thickness.append((np.clip(2 * view, 0, 1) - np.clip(2 * view - 1, 0, 1)).sum(axis=0).mean())
    assert np.mean(thickness) == pytest.approx(3, abs=0.1)
    assert 2 < min(thickness) < 2.8
    assert 3.2 < max(thickness) < 4


def test_a_sulcus_one_voxel_wide_stays_open_whatever_happens_to_the_ribbon():
    slab = np.full((1, *SIZE), 0.5, dtype=np.float32)
    slab[:, 16] = 0
    for seed in range(40):
        view = look(slab.copy(), rng(seed), only(ribbon=0.12))[0]
        assert np.all(view[16] < view[12] - 0.05)


def test_grey_moves_and_fluid_and_white_do_not():
    levels = np.tile(np.array([0, 0.25, 0.5, 0.75, 1], dtype=np.float32), (1, 5, 5, 1))
    random, greys = rng(), []
    for _ in range(200):
        low, quarter, grey, most, high = look(levels.copy(), random, only(grey=0.1))[0, 0, 0]
        assert low == 0
        assert high == 1
        assert low < quarter < grey < most < high
        greys.append(grey)
    assert min(greys) == pytest.approx(0.4, abs=0.01)
    assert max(greys) == pytest.approx(0.6, abs=0.01)


def test_contrast_shrinks_by_no_more_than_its_share():
    levels = np.tile(np.array([0, 0.5, 1], dtype=np.float32), (1, 3, 3, 1))
    spans = []
    random = rng()
    for _ in range(200):
        low, grey, high = look(levels.copy(), random, only(contrast=0.2))[0, 0, 0]
        assert grey - low == pytest.approx(high - grey, abs=1e-6)
        spans.append(high - low)
    assert min(spans) == pytest.approx(0.8, abs=0.01)
    assert max(spans) == pytest.approx(1, abs=0.01)


def test_gain_is_smooth_and_within_its_share():
    random, most = rng(), 0.0
    for _ in range(20):
        view = look(np.full((1, *SIZE), 0.5, dtype=np.float32), random, only(gain=0.2))[0]
        most = max(most, np.abs(view / 0.5 - 1).max())
        assert max(np.abs(np.diff(view, axis=axis)).max() for axis in range(3)) < 0.03
    assert 0.1 < most <= 0.2 + 1e-6


def test_noise_has_at_most_its_deviation_and_no_mean():
    random = rng()
    deviations = []
    for _ in range(50):
        view = look(np.full((1, *SIZE), 0.5, dtype=np.float32), random, only(noise=0.05))
        assert abs(view.mean() - 0.5) < 0.002
        deviations.append(view.std())
    assert 0.045 < max(deviations) < 0.051


def test_blur_spreads_a_point_by_at_most_its_width():
    point = np.zeros((1, 31, 31, 31), dtype=np.float32)
    point[0, 15, 15, 15] = 1
    random, widths = rng(), []
    for _ in range(40):
        view = look(point.copy(), random, only(blur_mm=1.5))[0]
        assert view.sum() == pytest.approx(1, abs=1e-4)
        widths.append(np.sqrt((view.sum(axis=(1, 2)) * (np.arange(31) - 15) ** 2).sum()))
    assert 1.3 < max(widths) < 1.55


def test_blocks_are_cut_out_and_no_larger_or_more_than_said():
    random, shares = rng(), []
    for _ in range(100):
        view = look(np.ones((1, *SIZE), dtype=np.float32), random, only(blocks=3, block_share=0.25))
        assert set(np.unique(view)) <= {0.0, 1.0}
        shares.append(1 - view.mean())
    assert min(shares) == 0
    assert 0.005 < max(shares) <= 3 * 0.25**3


def test_a_patch_smaller_than_its_view_is_refused(patch):
    with pytest.raises(InputError, match=r"found a patch of shape \(1, 40, 40, 40\) for a view of \(48, 32, 32\)"):
        augment(patch, (48, 32, 32), rng(), Augmentation3D())


def test_a_rotation_that_could_bring_left_near_right_is_no_setting():
    with pytest.raises(ValidationError, match="rotation_deg"):
        Augmentation3D(rotation_deg=90)
