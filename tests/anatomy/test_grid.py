import numpy as np
import pytest
from builders import frame_of
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from napari_pcs.anatomy.frame import HemisphereFrame, estimate_frame
from napari_pcs.anatomy.grid import GRID_ORIGIN, GRID_SHAPE, NetworkGrid, _resample, on_grid
from napari_pcs.data.phantom import phantom
from napari_pcs.labels import Hemisphere

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


@pytest.fixture(scope="module")
def cases():
    """Left and right phantom of 1 mm."""
    return {side: phantom(side) for side in (L, R)}


def grid_of(case):
    return NetworkGrid(frame_of(case), case.tissue.shape)


@pytest.mark.parametrize("side", [L, R])
def test_pulling_and_pushing_at_1_mm_gives_every_voxel_back(cases, side):
    case = cases[side]
    grid = grid_of(case)
    pulled = grid.pull(case.tissue.data)
    assert pulled.shape == GRID_SHAPE
    # No interpolation: the same whole numbers, as many as before.
    assert np.unique(pulled).tolist() == [0, 1, 2]
    assert np.bincount(pulled.astype(int).ravel())[1:].tolist() == np.bincount(case.tissue.data.ravel())[1:].tolist()
    np.testing.assert_array_equal(grid.push(pulled), case.tissue.data)


@pytest.mark.parametrize("order", [0, 1])
def test_the_network_sees_the_same_volume_for_both_sides(cases, order):
    left, right = (grid_of(cases[side]).pull(cases[side].tissue.data, order) for side in (L, R))
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("order", [0, 1])
def test_the_network_sees_the_same_volume_for_both_sides_at_another_voxel_size(coarse_left, coarse_right, order):
    left, right = (grid_of(case).pull(case.tissue.data, order) for case in (coarse_left, coarse_right))
    # Where a nearest voxel is as near as another, rounding decides.
    assert (np.abs(left - right) > 1e-4).mean() < (1e-4 if order == 0 else 1e-12)
    assert left.any()


@pytest.mark.parametrize("side", [L, R])
def test_a_hemisphere_is_medial_at_the_high_end_of_x(cases, side):
    pulled = grid_of(cases[side]).pull(cases[side].tissue.data) > 0
    used = np.flatnonzero(pulled.any(axis=(1, 2)))
    assert used[-1] == GRID_ORIGIN[0]
    # The flat medial face is the largest section.
    assert pulled[used[-1]].sum() > 3 * pulled[used[0]].sum()


def expected_own(grid_voxel, frame):
    """Own voxel of a voxel of the network's grid, worked out from millimetres."""
    lateral, anterior, superior = (
        GRID_ORIGIN[0] - grid_voxel[0],
        grid_voxel[1] - GRID_ORIGIN[1],
        grid_voxel[2] - GRID_ORIGIN[2],
    )
    sign = -1 if frame.hemisphere is L else 1
    return np.array(frame.origin) + np.array([sign * lateral, anterior, superior]) / frame.spacing


FRAMES = {
    "0.7 mm left": HemisphereFrame(L, (90.0, 130.3, 70.6), (0.7, 0.7, 0.7), 160.0),
    "0.7 mm right": HemisphereFrame(R, (12.0, 130.3, 70.6), (0.7, 0.7, 0.7), 160.0),
    "1.2 mm right": HemisphereFrame(R, (7.0, 80.3, 40.6), (1.2, 1.2, 1.2), 150.0),
    "uneven left": HemisphereFrame(L, (60.0, 100.3, 35.6), (1.0, 0.8, 1.5), 150.0),
}
OWN_SHAPES = {"0.7 mm left": (103, 230, 170), "0.7 mm right": (103, 230, 170)}


@pytest.mark.parametrize("name", FRAMES)
def test_a_probability_pushed_back_lies_where_it_was_predicted_in_mm(name):
    frame = FRAMES[name]
    grid = NetworkGrid(frame, OWN_SHAPES.get(name, (70, 170, 110)))
    centre, sigma = np.array([62.0, 120.0, 80.0]), 3.0
    x, y, z = np.indices(GRID_SHAPE)
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / (2 * sigma**2))
    pushed = grid.push(blob.astype(np.float32))

    centroid = np.array([(np.indices(pushed.shape)[axis] * pushed).sum() for axis in range(3)]) / pushed.sum()
    apart_mm = (centroid - expected_own(centre, frame)) * frame.spacing
    np.testing.assert_allclose(apart_mm, 0, atol=0.02)
    # Volume in mm3 is kept, and the peak is not far below 1.
    assert pushed.sum() * np.prod(frame.spacing) == pytest.approx(blob.sum(), rel=0.01)
    assert 0.9 < pushed.max() <= 1


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_pulled_equals_the_own_volume_at_the_same_place(name):
    frame = FRAMES[name]
    own = np.random.default_rng(0).random((70, 90, 60)).astype(np.float32)
    pulled = NetworkGrid(frame, own.shape).pull(own)
    interpolate = RegularGridInterpolator([np.arange(n) for n in own.shape], own, bounds_error=False, fill_value=None)
    voxels = np.array(list(np.ndindex(*(n // 7 for n in GRID_SHAPE)))) * 7
    places = np.array([expected_own(voxel, frame) for voxel in voxels])
    inside = ((places >= 0) & (places <= np.array(own.shape) - 1)).all(axis=1)
    assert inside.sum() > 50
    np.testing.assert_allclose(pulled[tuple(voxels[inside].T)], interpolate(places[inside]), atol=1e-3)


@pytest.mark.parametrize("side", [L, R])
@pytest.mark.parametrize(("size_mm", "spacing"), [((75, 215, 150), 1.0), ((60, 150, 100), 0.7), ((55, 140, 95), 1.3)])
def test_a_box_around_the_content_holds_all_of_it_and_little_more(side, size_mm, spacing):
    voxels = [round(n / spacing) for n in size_mm]
    content = np.pad(np.ones(voxels, bool), ((4, 9), (2, 3), (7, 1)))
    frame = estimate_frame(content, (spacing,) * 3, side)
    grid = NetworkGrid.around(content, frame)
    pulled = grid.pull(content)

    assert pulled.shape == grid.size
    assert pulled.sum() == pytest.approx(content.sum() * spacing**3, rel=0.02)
    assert all(0 <= n - mm <= 3 for n, mm in zip(grid.size, size_mm, strict=True))
    back = grid.push(pulled) > 0.5
    assert np.count_nonzero(back != content) < 0.05 * content.sum()
    if spacing == 1.0:
        assert np.array_equal(back, content)


def test_a_box_around_the_content_sees_what_the_standard_crop_sees(cases):
    case = cases[R]
    standard, around = grid_of(case), NetworkGrid.around(case.tissue.data > 0, frame_of(case))
    part = tuple(slice(a, a + n) for a, n in zip(around.start, around.size, strict=True))
    np.testing.assert_array_equal(around.pull(case.tissue.data), standard.pull(case.tissue.data)[part])
    np.testing.assert_array_equal(around.position(), standard.position()[(slice(None), *part)])


def test_position_is_0_at_the_commissure_for_both_sides(cases):
    left, right = (grid_of(cases[side]).position() for side in (L, R))
    np.testing.assert_array_equal(left, right)
    assert left.shape == (3, *GRID_SHAPE)
    assert left[(slice(None), *GRID_ORIGIN)].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("length", "mm"), [(160.0, 80), (120.0, 60), (200.0, 100)])
def test_position_is_1_where_a_hemisphere_of_reference_size_has_80_mm(length, mm):
    x0, y0, z0 = GRID_ORIGIN
    position = NetworkGrid(HemisphereFrame(R, (0.0, 0.0, 0.0), (1.0,) * 3, length), (9, 9, 9)).position()
    # Lateral towards low x, anterior towards high y, superior towards high z.
    assert position[0, x0 - mm // 2, y0, z0] == pytest.approx(0.5)
    assert position[1, x0, y0 - mm, z0] == pytest.approx(-1)
    assert position[2, x0, y0, z0 + mm // 2] == pytest.approx(0.5)
    assert np.ptp(position[1], axis=(0, 2)).max() == 0


def test_a_shift_by_whole_voxels_is_what_interpolation_gives_to_the_last_bit():
    rng = np.random.default_rng(0)
    for _ in range(300):
        own, size = rng.integers(1, 9, 3), tuple(int(n) for n in rng.integers(1, 9, 3))
        scale, offset = rng.choice([-1.0, 1.0], 3), rng.integers(-12, 18, 3).astype(float)
        volume = rng.normal(size=own).astype(np.float32)
        for order in (0, 1):
            found = _resample(volume, scale, offset, size, order)
            matrix = np.diag(scale)
            expected = ndimage.affine_transform(volume, matrix, offset, output_shape=size, order=order, mode="constant")
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", FRAMES)
def test_a_voxel_is_found_in_the_box_where_its_centre_lies(name):
    frame, shape = FRAMES[name], OWN_SHAPES.get(name, (80, 160, 110))
    grid = NetworkGrid(frame, shape, start=(3, -4, 5), size=(40, 50, 60))
    for voxel in np.random.default_rng(1).integers(-20, 80, (50, 3)):
        inside = voxel + grid.start
        own = expected_own(inside, frame)
        nearest = np.round(own).astype(int)
        found = grid.index_of(nearest[None])[0]
        # Back at the centre of that voxel: no further than half a voxel of the box along each axis.
        assert np.all(np.abs(expected_own(found + grid.start, frame) - nearest) * frame.spacing <= 0.5 + 1e-9)


def test_the_frame_has_its_origin_at_a_known_voxel_of_any_box(cases):
    for case in cases.values():
        tissue, grid = on_grid(case.tissue, case.key.hemisphere)
        assert tissue.shape == grid.size
        x, y, z = grid.origin
        assert grid.index_of(np.round(np.array([grid.frame.origin])).astype(int)).tolist() == [[x, y, z]]
        assert np.all(grid.position()[:, x, y, z] == 0)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("seed", range(8))
def test_resampling_is_that_of_scipy(seed, order):
    rng = np.random.default_rng(seed)
    volume = rng.random((9, 7, 11)).astype(np.float32)
    scale = rng.uniform(0.4, 2.5, 3) * rng.choice([-1, 1], 3)
    offset = rng.uniform(-4, 8, 3)
    if seed % 2:  # whole voxels along some axes
        scale[seed % 3], offset[seed % 3] = np.sign(scale[seed % 3]), round(offset[seed % 3])
    found = _resample(volume, scale, offset, (12, 8, 10), order)
    expected = ndimage.affine_transform(volume, np.diag(scale), offset, (12, 8, 10), order=order, mode="constant")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_box_beside_the_volume_is_empty():
    found = _resample(np.ones((3, 4, 5)), np.ones(3), np.array([9.0, 0, 0]), (4, 4, 4), 1)
    assert found.shape == (4, 4, 4)
    assert not found.any()
