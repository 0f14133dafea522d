import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_pcs.anatomy.sheets import local_shape, voxel_areas

UNIT = (1.0, 1.0, 1.0)


def grid(n=50, spacing=UNIT):
    """Coordinates in mm of every voxel, the middle one at 0: (3, x, y, z)."""
    return np.stack(np.meshgrid(*((np.arange(n) - n // 2) * s for s in spacing), indexing="ij"))


def disc(normal, radius=18.0, spacing=UNIT):
    """A digital disc one voxel thick across its dominant axis."""
    where = grid(spacing=spacing)
    thickness = np.max(np.abs(normal) * spacing)
    return (np.abs(np.tensordot(normal, where, 1)) <= thickness / 2) & ((where**2).sum(axis=0) < radius**2)


def shape_of(mask, spacing=UNIT):
    return local_shape(mask, np.argwhere(mask), spacing)


NORMALS = Rotation.random(6, random_state=4).as_matrix()[:, 0]


@pytest.mark.parametrize("normal", [*NORMALS, np.array([1.0, 0, 0]), np.array([0, 0, 1.0])])
def test_a_disc_has_its_own_normal_and_area_at_any_orientation(normal):
    mask = disc(normal)
    found = shape_of(mask)
    facing = np.abs(found.normals @ normal)
    assert np.percentile(facing, 10) > 0.97
    assert voxel_areas(found.normals, UNIT).sum() == pytest.approx(np.pi * 18**2, rel=0.04)
    assert found.roughness.max() < 0.2


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.7), (1.0, 1.0, 1.5)])
def test_area_is_in_mm2_whatever_the_voxels(spacing):
    mask = disc(NORMALS[0], radius=14, spacing=spacing)
    found = shape_of(mask, spacing)
    assert voxel_areas(found.normals, spacing).sum() == pytest.approx(np.pi * 14**2, rel=0.06)


def test_three_sheets_that_meet_are_rougher_than_any_gentle_bend():
    x, y, z = grid()
    flat = (x == 0) & (np.abs(y) < 15) & (np.abs(z) < 15)
    junction = flat | ((y == 0) & (x >= 0) & (x < 12) & (np.abs(z) < 15))
    gentle = (np.abs(np.hypot(x, y) - 8) <= 0.5) & (np.abs(z) < 15) & (x > 0)
    index = np.argwhere(junction)
    at_the_line = (np.abs(index - 25) <= (0, 0, 9)).all(axis=1)
    rough = shape_of(junction).roughness
    assert rough[at_the_line].min() > 0.44
    assert shape_of(gentle).roughness.max() < 0.2


def test_a_bend_of_90_degrees_exceeds_the_limit_and_one_of_45_does_not():
    from napari_pcs.anatomy.folds import MAX_ROUGHNESS_MM2

    x, y, z = grid()
    right = ((x == 0) & (y >= 0) & (y < 15) | (y == 0) & (x >= 0) & (x < 12)) & (np.abs(z) < 15)
    half = ((x == 0) & (y <= 0) & (y > -15) | (x == y) & (y >= 0) & (y < 12)) & (np.abs(z) < 15)
    assert shape_of(right).roughness.max() > MAX_ROUGHNESS_MM2
    assert shape_of(half).roughness.max() < MAX_ROUGHNESS_MM2


def test_a_sheet_close_by_but_not_connected_does_not_count():
    x, y, z = grid()
    one = (x == 0) & (np.abs(y) < 15) & (np.abs(z) < 15)
    index = np.argwhere(one)
    alone = local_shape(one, index, UNIT)
    beside = local_shape(one | ((x == 2) & (np.abs(y) < 15) & (np.abs(z) < 15)), index, UNIT)
    np.testing.assert_array_equal(alone.roughness, beside.roughness)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_mirror_image_has_the_mirrored_normals(axis):
    mask = disc(NORMALS[1], radius=10)
    mask[25, 25:33, 20:30] = True
    index = np.argwhere(mask)
    mirrored = index.copy()
    mirrored[:, axis] = 49 - index[:, axis]
    here, there = local_shape(mask, index, UNIT), local_shape(np.flip(mask, axis), mirrored, UNIT)
    np.testing.assert_allclose(here.roughness, there.roughness, atol=1e-9)
    turned = there.normals * np.where(np.arange(3) == axis, -1, 1)
    clear = here.roughness < 0.1
    np.testing.assert_allclose(np.abs((here.normals * turned).sum(axis=1))[clear], 1, atol=1e-6)
