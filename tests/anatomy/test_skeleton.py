import numpy as np
import pytest
from builders import COARSE_MM, filled_blocks, frame_of, skeleton_of
from scipy import ndimage

from napari_pcs.anatomy import skeleton as module
from napari_pcs.anatomy.frame import HemisphereFrame
from napari_pcs.anatomy.skeleton import outward_flux, skeletonize
from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.labels import Hemisphere

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
# The phantom's own arcs: centre (y, z) and radii in mm of its grid, which begins at the midline.
ARC_CENTRE_MM = 96.0, 48.0
ARCS = {"cingulate": (34.0, 12.0, 108.0), "pcs": (45.0, 42.0, 104.0)}
MEDIAL_FACE_MM = 5.0


def coordinates(shape, spacing=COARSE_MM):
    """Lateral mm, radius mm and angle in degrees of every voxel of the right phantom."""
    x, y, z = np.indices(shape) * spacing
    dy, dz = y - ARC_CENTRE_MM[0], z - ARC_CENTRE_MM[1]
    return x, np.hypot(dy, dz), np.degrees(np.arctan2(dz, dy))


@pytest.mark.parametrize(("radius", "first", "last"), ARCS.values(), ids=ARCS)
def test_the_skeleton_lies_on_the_arcs_of_the_phantom(coarse_skeletons, radius, first, last):
    skeleton = coarse_skeletons[R]
    x, r, angle = coordinates(skeleton.shape)
    depth = x - MEDIAL_FACE_MM
    # Deeper down the square end of the phantom's fold parts the medial surface towards its corners.
    fold = skeleton & (abs(r - radius) < 4) & (angle > first) & (angle < last) & (depth > 1.5) & (depth < 6)
    offset = (r - radius)[fold]

    assert abs(offset.mean()) < 0.2
    assert np.abs(offset).mean() < 0.6
    assert np.percentile(np.abs(offset), 95) < 1.3
    # It runs from end to end: no stretch of 3 mm without it.
    step = np.degrees(3 / radius)
    bins = np.histogram(angle[fold], np.arange(first, last, step))[0]
    assert bins.min() > 0


@pytest.mark.parametrize("side", [L, R])
def test_every_reference_voxel_of_the_medial_folds_is_close_to_the_skeleton(
    coarse_skeletons, coarse_left, coarse_right, side
):
    labels = {L: coarse_left, R: coarse_right}[side].labels[LabelRole.REFERENCE].data
    distance = ndimage.distance_transform_edt(~coarse_skeletons[side]) * COARSE_MM
    _, r, _ = coordinates(labels.shape)
    r = r[::-1] if side is L else r
    x = coordinates(labels.shape)[0]
    medial = (x[::-1] if side is L else x) < MEDIAL_FACE_MM + 10
    for fold in (labels == 2, (labels == 1) & medial & (abs(r - 34.0) < 2)):
        apart = distance[fold]
        assert apart.size > 300
        # In the square end of a fold the medial surface parts towards the corners, up to 3.8 mm away.
        assert np.median(apart) <= COARSE_MM + 1e-6
        assert np.percentile(apart, 90) <= 1.5 * COARSE_MM
        assert apart.max() <= 4


def test_without_the_pcs_there_is_no_skeleton_at_its_place(coarse_skeletons):
    absent = skeleton_of(phantom(R, pcs_length_mm=0, spacing_mm=COARSE_MM))
    x, r, angle = coordinates(absent.shape)
    radius, first, last = ARCS["pcs"]
    place = (abs(r - radius) < 4) & (angle > first) & (angle < last) & (x > 6) & (x < 11)
    assert not (absent & place).any()
    assert (coarse_skeletons[R] & place).any()


def test_the_skeleton_of_the_right_phantom_is_the_mirror_image_of_the_left(coarse_skeletons):
    np.testing.assert_array_equal(coarse_skeletons[R][::-1], coarse_skeletons[L])
    assert (coarse_skeletons[R] != coarse_skeletons[L]).any()


def test_the_skeleton_does_not_depend_on_the_place_in_the_volume(coarse_left, coarse_skeletons):
    case, pads = coarse_left, ((3, 0), (1, 6), (0, 4))
    tissue = np.pad(case.tissue.data, pads)
    frame = HemisphereFrame(
        L,
        tuple(o + before for o, (before, _) in zip(frame_of(case).origin, pads, strict=True)),
        case.tissue.spacing,
        frame_of(case).length_mm,
    )
    moved = skeletonize(tissue == 1, tissue == 2, frame)
    back = moved[tuple(slice(before, n - after) for n, (before, after) in zip(moved.shape, pads, strict=True))]
    assert moved.sum() == back.sum()
    assert np.count_nonzero(back != coarse_skeletons[L]) <= 0.01 * back.sum()


@pytest.mark.parametrize("side", [L, R])
def test_the_skeleton_is_made_of_thin_pieces_outside_the_white_matter(
    coarse_skeletons, coarse_left, coarse_right, side
):
    skeleton, tissue = coarse_skeletons[side], {L: coarse_left, R: coarse_right}[side].tissue.data
    assert filled_blocks(skeleton) == 0
    assert not (skeleton & (tissue == 2)).any()
    labels, n = ndimage.label(skeleton, np.ones((3, 3, 3)))
    assert n > 0
    # 30 mm3 at least, or 18 voxels of 1.2 mm.
    assert np.bincount(labels.ravel())[1:].min() >= 18


SLIT_HEIGHTS = {"through the deep nuclei": (9.0, False), "above them": (32.0, True)}


def with_slit(case, height):
    """Cut a fold into the medial face at a height above the commissure; return the tissue and its middle."""
    frame = frame_of(case)
    lateral, y, z = np.broadcast_arrays(*(axis / frame.scale for axis in frame.axes_mm(case.tissue.shape)))
    reach = (lateral < 24) & (y > -25) & (y < 20)
    tissue = case.tissue.data.copy()
    tissue[reach & (abs(z - height) < 4) & (tissue > 0)] = 1
    tissue[reach & (abs(z - height) < 0.7)] = 0
    middle = (lateral > 6) & (lateral < 22) & (y > -20) & (y < 15) & (abs(z - height) < 1.5)
    return tissue, middle, frame


@pytest.mark.parametrize(("height", "found"), SLIT_HEIGHTS.values(), ids=SLIT_HEIGHTS)
def test_a_cleft_counts_as_a_fold_except_in_the_deep_zone(coarse_left, height, found):
    tissue, middle, frame = with_slit(coarse_left, height)
    skeleton = skeletonize(tissue == 1, tissue == 2, frame)
    covered = ndimage.maximum_filter(skeleton, size=(1, 1, 5))[middle].mean()
    assert covered > 0.9 if found else covered < 0.01


def test_the_cleft_in_the_deep_zone_is_left_out_because_of_the_zone_alone(coarse_left, monkeypatch):
    tissue, middle, frame = with_slit(coarse_left, SLIT_HEIGHTS["through the deep nuclei"][0])
    far = module._Ellipsoid((-500, 0, 0), (1, 1, 1))
    monkeypatch.setattr(module, "_DEEP", (far,))
    skeleton = skeletonize(tissue == 1, tissue == 2, frame)
    assert ndimage.maximum_filter(skeleton, size=(1, 1, 5))[middle].mean() > 0.9


# Flux

NEIGHBOURS = np.array([step for step in np.ndindex(3, 3, 3) if step != (1, 1, 1)]) - 1.0


def sheet(axis, spacing, n=13):
    """Distance map of a flat sheet in the middle of a cube: highest on the sheet, falling to both sides."""
    line = -np.abs(np.arange(n) - n // 2) * spacing[axis]
    return np.broadcast_to(np.expand_dims(line, [a for a in range(3) if a != axis]), (n,) * 3).astype(np.float32)


@pytest.mark.parametrize("size", [0.7, 1.0, 1.2, 1])
@pytest.mark.parametrize("axis", range(3))
def test_the_flux_on_a_flat_sheet_is_that_of_the_paper(axis, size):
    spacing = (size,) * 3
    flux = outward_flux(sheet(axis, spacing), np.ones((13,) * 3, bool), spacing)
    # By hand: every neighbour's gradient points at the sheet, so its unit step counts along the axis.
    expected = -np.mean(np.abs(NEIGHBOURS[:, axis]) / np.linalg.norm(NEIGHBOURS, axis=1))
    across = np.moveaxis(flux, axis, 0)[:, 4:-4, 4:-4]
    np.testing.assert_allclose(across[6], expected, atol=1e-5)
    assert expected == pytest.approx(-0.47, abs=0.005)
    np.testing.assert_allclose(across[[2, 3, 4, 8, 9, 10]], 0, atol=1e-6)


def test_the_flux_of_a_ball_shows_only_its_centre():
    distance = 12 - np.linalg.norm(np.indices((21,) * 3) - 10.0, axis=0)
    flux = outward_flux(distance, np.ones((21,) * 3, bool), (1.0, 1.0, 1.0))
    # Towards the centre from all 26 sides.
    assert flux[10, 10, 10] == pytest.approx(-1.0, abs=1e-5)
    assert np.argmin(flux) == np.ravel_multi_index((10, 10, 10), flux.shape)
    # Far from the centre the gradient converges by little: 2 / r over a cube of about 1.4 mm reach.
    assert abs(flux[10, 10, 17]) < 0.2
    np.testing.assert_allclose(flux[::-1], flux, atol=1e-6)


def test_the_flux_is_computed_only_where_asked():
    distance = sheet(0, (1.0, 1.0, 1.0))
    inside = np.zeros(distance.shape, bool)
    inside[6, 6, 6] = True
    flux = outward_flux(distance, inside, (1.0, 1.0, 1.0))
    assert np.argwhere(flux).tolist() == [[6, 6, 6]]
