import numpy as np
import pytest
from builders import filled_blocks
from scipy import ndimage
from skimage.measure import euler_number

from napari_pcs.anatomy.thinning import is_simple, thin

CUBE = np.ones((3, 3, 3), bool)
CROSS = ndimage.generate_binary_structure(3, 1)
N18 = ndimage.generate_binary_structure(3, 2)
MARGIN = 4


def simple_by_labelling(block):
    """Bertrand & Malandain's two counts, by labelling components."""
    ring = block.copy()
    ring[1, 1, 1] = False
    objects = ndimage.label(ring, CUBE)[1]
    around = ~block & N18
    around[1, 1, 1] = False
    background, _ = ndimage.label(around, CROSS)
    touching = set(background[CROSS].tolist()) - {0}
    return objects == 1 and len(touching) == 1


@pytest.mark.parametrize("density", [0.15, 0.3, 0.5, 0.7, 0.85, 0.95])
def test_simple_voxels_are_those_that_labelling_finds(density):
    rng = np.random.default_rng(int(100 * density))
    blocks = rng.random((700, 3, 3, 3)) < density
    blocks[:, 1, 1, 1] = True
    expected = [simple_by_labelling(block) for block in blocks]
    assert [is_simple(block) for block in blocks] == expected
    assert any(expected)
    assert not all(expected)


@pytest.mark.parametrize("turn", range(6))
def test_whether_a_voxel_is_simple_does_not_depend_on_the_view(turn):
    rng = np.random.default_rng(turn)
    axes = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)][turn]
    for block in rng.random((200, 3, 3, 3)) < 0.45:
        assert is_simple(block) == is_simple(block.transpose(axes)[::-1, :, ::-1])


def block_of(*voxels):
    block = np.zeros((3, 3, 3), bool)
    for voxel in voxels:
        block[voxel] = True
    return block


@pytest.mark.parametrize(
    ("block", "simple"),
    [
        (block_of((1, 1, 1)), False),
        (np.ones((3, 3, 3), bool), False),
        (block_of((1, 1, 1), (1, 1, 2)), True),
        (block_of((1, 1, 1), (1, 1, 0), (1, 1, 2)), False),
        (block_of((1, 1, 1), (0, 0, 0)), True),
        (block_of((1, slice(None), slice(None))), False),
        (block_of((slice(0, 2), slice(None), slice(None))), True),
    ],
    ids=["isolated", "inside", "tip", "middle of a line", "tip at a corner", "middle of a plane", "face of a solid"],
)
def test_plain_cases(block, simple):
    assert is_simple(block) is simple


def ball(radius, hollow=0.0, size=25):
    grid = np.indices((size,) * 3) - size // 2
    distance = np.linalg.norm(grid, axis=0)
    return (distance <= radius) & (distance >= hollow)


def torus(size=25):
    x, y, z = np.indices((size,) * 3) - size // 2
    return np.hypot(np.hypot(x, y) - 7, z) <= 3


def blobs(seed, size=22):
    noise = np.random.default_rng(seed).normal(size=(size,) * 3)
    return ndimage.gaussian_filter(noise, 1.5) > 0.02


SOLIDS = {
    "ball": (ball(8), (1, 0, 1)),
    "hollow ball": (ball(10, 5), (1, 1, 2)),
    "torus": (torus(), (1, 0, 0)),
    "ball in a ball": (ball(11, 8) | ball(4), (2, 1, 3)),
    **{f"blobs {seed}": (blobs(seed), None) for seed in range(6)},
}


def topology(mask):
    """Components (26-connected), cavities (6-connected background) and Euler number."""
    objects = ndimage.label(mask, CUBE)[1]
    outside = ndimage.label(~np.pad(mask, 1), CROSS)[1]
    return objects, outside - 1, euler_number(mask, 3)


@pytest.mark.parametrize("priority", ["distance", "constant", "noise"])
@pytest.mark.parametrize(("solid", "expected"), SOLIDS.values(), ids=SOLIDS)
def test_thinning_keeps_components_cavities_and_euler_number(solid, expected, priority):
    crest = {
        "distance": ndimage.distance_transform_edt(solid),
        "constant": np.zeros(solid.shape),
        "noise": np.random.default_rng(1).random(solid.shape),
    }[priority]
    thinned = thin(solid, crest)

    assert topology(thinned) == topology(solid)
    assert expected is None or topology(solid) == expected
    assert not (thinned & ~solid).any()
    assert thinned.sum() < solid.sum() / 2
    assert filled_blocks(thinned) == 0
    np.testing.assert_array_equal(thin(thinned, crest), thinned)


def slab(thickness, axis=0):
    """A slab of 20 x 22 voxels."""
    solid = np.zeros((15, 26, 28), bool)
    solid[4 : 4 + thickness, 3:23, 3:25] = True
    return np.moveaxis(solid, 0, axis)


def ridge(thickness, axis=0, slope=0.0, noise=0.0):
    """Priority that is highest in the middle of the slab; it may rise along the slab and is uneven by `noise`."""
    across = -np.abs(np.arange(15.0) - (4 + (thickness - 1) / 2))[:, None, None]
    uneven = noise * np.random.default_rng(0).random((15, 26, 28))
    return np.moveaxis(across + slope * np.arange(26.0)[:, None] + uneven, 0, axis)


def seen_from_the_front(thinned, axis):
    return np.moveaxis(thinned, axis, 0).sum(axis=0)[3:23, 3:25]


@pytest.mark.parametrize("thickness", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("axis", range(3))
def test_a_thick_slab_becomes_one_voxel_thick_and_keeps_its_extent(thickness, axis):
    thinned = thin(slab(thickness, axis), ridge(thickness, axis, noise=0.01))
    seen = seen_from_the_front(thinned, axis)
    np.testing.assert_array_equal(seen[MARGIN:-MARGIN, MARGIN:-MARGIN], 1)
    # All four edges are reached, and at most one line in twenty is lost along them.
    assert seen[0].any()
    assert seen[-1].any()
    assert seen[:, 0].any()
    assert seen[:, -1].any()
    assert (seen > 0).mean() >= 0.95
    assert filled_blocks(thinned) == 0


@pytest.mark.parametrize("axis", range(3))
def test_a_slab_of_two_voxels_keeps_its_extent_when_the_priority_rises_along_it(axis):
    thinned = thin(slab(2, axis), ridge(2, axis, slope=0.02))
    assert (seen_from_the_front(thinned, axis) > 0).mean() >= 0.9


@pytest.mark.parametrize("crest", [4, 6, 8])
@pytest.mark.parametrize("axis", range(3))
def test_the_skeleton_settles_on_the_crest_of_the_priority(crest, axis):
    priority = np.moveaxis(np.broadcast_to(-np.abs(np.arange(15.0) - crest)[:, None, None], (15, 26, 28)), 0, axis)
    thinned = np.moveaxis(thin(slab(5, axis), priority), axis, 0)
    layers = np.argwhere(thinned[:, 3 + MARGIN : 23 - MARGIN, 3 + MARGIN : 25 - MARGIN])[:, 0]
    assert layers.size == 12 * 14
    assert set(layers.tolist()) == {crest}


def test_a_sheet_and_a_line_of_one_voxel_are_left_alone():
    thing = np.zeros((12, 12, 12), bool)
    thing[3, 2:10, 2:10] = True
    thing[8, 5, 2:10] = True
    np.testing.assert_array_equal(thin(thing, np.zeros(thing.shape)), thing)


def test_objects_at_the_border_of_the_volume_are_thinned_like_others():
    solid = blobs(3)
    solid[:2] = True
    crest = np.random.default_rng(0).random(solid.shape)
    roomy = thin(np.pad(solid, 3), np.pad(crest, 3))[3:-3, 3:-3, 3:-3]
    np.testing.assert_array_equal(thin(solid, crest), roomy)


def test_an_empty_volume_stays_empty_and_the_input_is_not_changed():
    empty = np.zeros((5, 6, 7), bool)
    assert not thin(empty, np.zeros(empty.shape)).any()
    solid = ball(6)
    kept = solid.copy()
    thin(solid, np.zeros(solid.shape))
    np.testing.assert_array_equal(solid, kept)


def test_a_priority_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 6, 7\).*\(5, 6, 8\)"):
        thin(np.ones((5, 6, 7), bool), np.ones((5, 6, 8)))
