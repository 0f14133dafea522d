import numpy as np
import pytest
from builders import COARSE_MM, frame_of

from napari_pcs.anatomy.frame import HemisphereFrame, estimate_frame
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


def box(spacing=(1.0, 1.0, 1.0), size_mm=(60, 160, 110), start=(3, 5, 4)):
    """A solid of 60 x 160 x 110 mm with some space around it."""
    voxels = [round(n / s) for n, s in zip(size_mm, spacing, strict=True)]
    mask = np.zeros([n + 12 for n in voxels], bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, voxels, strict=True))] = True
    return mask


@pytest.mark.parametrize(("side", "x"), [(L, 62.0), (R, 3.0)])
def test_the_commissure_of_a_box_lies_where_the_two_shares_put_it(side, x):
    frame = estimate_frame(box(), (1.0, 1.0, 1.0), side)
    # Last voxels at y 164 and z 113; 39.1 % and 46.0 % of 160 mm behind and below them.
    assert frame.origin == pytest.approx((x, 164 - 0.391 * 160, 113 - 0.46 * 160))
    assert frame.length_mm == 160.0
    assert frame.scale == 1.0


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (1.0, 0.5, 2.0)])
def test_the_commissure_in_mm_does_not_depend_on_the_voxel_size(spacing):
    frame = estimate_frame(box(spacing), spacing, L)
    ends = np.array([3, 5, 4]) + [round(n / s) for n, s in zip((60, 160, 110), spacing, strict=True)] - 1
    behind = (ends - frame.origin) * spacing
    np.testing.assert_allclose(behind, (0, 0.391 * 160, 0.46 * 160), atol=1e-9)


@pytest.mark.parametrize("pads", [((7, 0), (0, 0), (0, 0)), ((0, 5), (9, 2), (3, 11)), ((1, 1), (1, 1), (1, 1))])
def test_the_commissure_moves_with_the_content_and_ignores_the_margin(coarse_left, pads):
    tissue = coarse_left.tissue.data > 0
    frame, moved = (estimate_frame(t, (COARSE_MM,) * 3, L) for t in (tissue, np.pad(tissue, pads)))
    np.testing.assert_allclose(np.subtract(moved.origin, frame.origin), [before for before, _ in pads], atol=1e-9)
    assert moved.length_mm == frame.length_mm


def test_a_right_hemisphere_has_the_mirrored_frame(coarse_left, coarse_right):
    left, right = frame_of(coarse_left), frame_of(coarse_right)
    assert right.origin[0] == coarse_left.tissue.shape[0] - 1 - left.origin[0]
    assert right.origin[1:] == left.origin[1:]
    assert right.length_mm == left.length_mm
    for one, two in zip(left.axes_mm((62, 9, 9)), right.axes_mm((62, 9, 9)), strict=True):
        np.testing.assert_allclose(one[::-1] if one.shape[0] > 1 else one, two, atol=1e-4)


def test_a_speck_away_from_the_hemisphere_does_not_move_the_frame():
    mask = np.pad(box(), ((0, 0), (20, 20), (20, 20)))
    clean = estimate_frame(mask, (1.0, 1.0, 1.0), L)
    mask[-2, -3:, -3:] = True
    assert estimate_frame(mask, (1.0, 1.0, 1.0), L) == clean


@pytest.mark.parametrize("side", [L, R])
def test_coordinates_grow_laterally_anteriorly_and_superiorly(side):
    frame = HemisphereFrame(side, (10.0, 20.0, 30.0), (0.5, 1.0, 2.0), 160.0)
    x, y, z = frame.axes_mm((21, 41, 61))
    assert (x.shape, y.shape, z.shape) == ((21, 1, 1), (1, 41, 1), (1, 1, 61))
    assert x[10, 0, 0] == y[0, 20, 0] == z[0, 0, 30] == 0
    outward = 0 if side is L else 20
    assert (x[outward, 0, 0], y[0, 25, 0], z[0, 0, 27]) == (5.0, 5.0, -6.0)


@pytest.mark.parametrize(
    ("unit", "shown"), [(1e-3, r"0\.16 mm"), (1e3, r"1\.6e\+05 mm"), (0.5, "80 mm"), (2.0, "320 mm"), (10.0, "1600 mm")]
)
def test_a_length_that_no_hemisphere_has_is_refused_with_the_length(unit, shown):
    with pytest.raises(InputError, match=rf"tissue {shown} long.*expected a hemisphere of 110 to 230 mm.*unit"):
        estimate_frame(box(), (unit,) * 3, L)


@pytest.mark.parametrize("length", [111, 160, 229])
def test_every_plausible_length_is_accepted(length):
    frame = estimate_frame(box(size_mm=(60, length, 110)), (1.0, 1.0, 1.0), R)
    assert frame.scale == pytest.approx(length / 160)


def test_no_tissue_is_refused():
    with pytest.raises(InputError, match="found no grey or white matter, expected one hemisphere"):
        estimate_frame(np.zeros((5, 6, 7), bool), (1.0, 1.0, 1.0), L)
