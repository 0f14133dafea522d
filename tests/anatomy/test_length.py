import numpy as np
import pytest

from napari_pcs.anatomy.length import MIN_PIECE_VOXELS, measure, path_length
from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset

UNIT = (1.0, 1.0, 1.0)


def bar(length, degrees=0.0, spacing=1.0, start=(10.0, 10.0), size_mm=90):
    """A line of voxels in a sagittal plane; the last voxel ends `length` mm behind the beginning of the first."""
    mask = np.zeros((5, round(size_mm / spacing), round(size_mm / spacing)), bool)
    along = np.linspace(0, length - spacing, 4000)
    y, z = (
        np.round((s + along * f(np.radians(degrees))) / spacing).astype(int)
        for s, f in zip(start, (np.cos, np.sin), strict=True)
    )
    mask[2, y, z] = True
    return mask


def arc(degrees=100, radius=38.0, first=20.0, spacing=1.0, depth=1):
    """A sheet of an arc in sagittal planes, `depth` voxels deep."""
    n = round(110 / spacing)
    y, z = np.meshgrid(np.arange(n) * spacing - 50, np.arange(n) * spacing - 30, indexing="ij")
    angle = np.degrees(np.arctan2(z, y))
    mask = np.zeros((depth + 4, n, n), bool)
    mask[2 : 2 + depth] = (abs(np.hypot(y, z) - radius) <= spacing / 2) & (angle >= first) & (angle < first + degrees)
    return mask


def length_of(mask, spacing=UNIT, preset=DEFAULT_PRESET):
    return measure(mask, spacing, preset).length_mm


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("degrees", [0, 17, 30, 45, 60, 90])
def test_a_straight_bar_of_40_mm_is_measured_within_3_per_cent(degrees, spacing):
    assert length_of(bar(40, degrees, spacing), (spacing,) * 3) == pytest.approx(40, rel=0.03)


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("first", [0, 20, 40])
def test_an_arc_round_the_genu_is_measured_within_3_per_cent(first, spacing):
    expected = 38 * np.radians(100)
    assert expected == pytest.approx(66.3, abs=0.05)
    assert length_of(arc(first=first, spacing=spacing), (spacing,) * 3) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("first", [0, 20, 40])
def test_a_deep_arc_is_measured_within_5_per_cent(first, spacing):
    # Ten voxels deep, the longest geodesic runs from a shallow end to a deep one: never shorter than the arc.
    measured = length_of(arc(first=first, spacing=spacing, depth=10), (spacing,) * 3)
    assert 1.0 <= measured / (38 * np.radians(100)) <= 1.05


def test_a_voxel_size_that_differs_along_the_axes_is_taken_into_account():
    mask = np.zeros((5, 40, 40), bool)
    mask[2, 5:25, 7] = True
    assert length_of(mask, (1.0, 2.0, 0.5)) == pytest.approx(40, rel=1e-6)
    assert length_of(mask.transpose(0, 2, 1), (1.0, 2.0, 0.5)) == pytest.approx(10, rel=1e-6)


def test_the_longest_way_is_the_longest_in_mm_and_not_in_voxels():
    cross = np.zeros((5, 60, 60), bool)
    cross[2, 10:51, 30] = True
    cross[2, 30, 18:43] = True
    # 41 voxels of 0.5 mm one way, 25 voxels of 2 mm the other.
    assert length_of(cross, (1.0, 0.5, 2.0)) == pytest.approx(50, rel=0.02)
    assert length_of(cross) == pytest.approx(41, rel=0.02)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_length_scales_with_the_voxel_size(factor):
    mask = arc()
    assert length_of(mask, (factor,) * 3) == pytest.approx(factor * length_of(mask), rel=0.01)


def two_bars(gap, axis=1):
    """Two bars of 20 mm on one line; the gap is counted from centre to centre of the facing voxels."""
    mask = np.zeros((5, 90, 11), bool)
    mask[2, 5:25, 5] = True
    mask[2, 24 + gap : 44 + gap, 5] = True
    return np.moveaxis(mask, 1, axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_gap_of_10_mm_is_bridged_and_listed(axis):
    found = measure(two_bars(10, axis), UNIT, DEFAULT_PRESET)
    assert found.length_mm == pytest.approx(50, rel=0.01)
    assert found.gaps_mm == pytest.approx((10,))
    assert [piece.length_mm for piece in found.pieces] == pytest.approx([20, 20], rel=0.01)
    assert found.pcs_class == "present"


def test_a_gap_of_25_mm_is_not_bridged():
    found = measure(two_bars(25), UNIT, DEFAULT_PRESET)
    assert found.length_mm == pytest.approx(20, rel=0.01)
    assert found.gaps_mm == ()
    assert [piece.voxels for piece in found.pieces] == [20, 20]


@pytest.mark.parametrize(("limit", "bridged"), [(14.9, False), (15.0, True), (0.0, False)])
def test_the_preset_decides_which_gaps_are_bridged(limit, bridged):
    preset = ClassPreset(name="p", citation="c", max_gap_mm=limit)
    found = measure(two_bars(15), UNIT, preset)
    assert found.preset == "p"
    assert found.length_mm == pytest.approx(55 if bridged else 20, rel=0.01)


def test_a_gap_is_measured_in_mm_and_not_in_voxels():
    assert measure(two_bars(15), (1.0, 0.5, 1.0), DEFAULT_PRESET).gaps_mm == pytest.approx((7.5,))
    assert measure(two_bars(15), (1.0, 2.0, 1.0), DEFAULT_PRESET).gaps_mm == ()


def test_three_pieces_in_a_row_are_joined_by_the_two_short_gaps():
    mask = np.zeros((5, 90, 11), bool)
    for first in (5, 25, 45):
        mask[2, first : first + 12, 5] = True
    found = measure(mask, UNIT, DEFAULT_PRESET)
    # 9 mm between neighbours; the two ends, 29 mm apart, are not joined once more.
    assert found.gaps_mm == pytest.approx((9, 9))
    assert found.length_mm == pytest.approx(3 * 12 + 2 * 9, rel=0.01)


def test_the_longest_chain_counts_and_all_pieces_are_listed_longest_first():
    mask = np.zeros((5, 90, 90), bool)
    mask[2, 5:35, 5] = True
    mask[2, 5:20, 80] = True
    mask[2, 25:45, 80] = True
    found = measure(mask, UNIT, DEFAULT_PRESET)
    assert found.length_mm == pytest.approx(15 + 20 + 6, rel=0.01)
    assert [(piece.id, piece.voxels) for piece in found.pieces] == [(1, 30), (2, 20), (3, 15)]
    assert found.gaps_mm == pytest.approx((6,))


def test_specks_are_ignored_in_every_figure():
    mask = bar(40)
    clean = measure(mask, UNIT, DEFAULT_PRESET)
    mask[0, 80, 80 : 80 + MIN_PIECE_VOXELS - 1] = True
    mask[2, 57, 10] = True
    assert measure(mask, UNIT, DEFAULT_PRESET) == clean
    mask[0, 80, 80 + MIN_PIECE_VOXELS - 1] = True
    assert len(measure(mask, UNIT, DEFAULT_PRESET).pieces) == 2


@pytest.mark.parametrize("specks", [0, 3])
def test_nothing_labelled_is_0_mm_and_absent(specks):
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, :specks] = True
    found = measure(mask, UNIT, DEFAULT_PRESET)
    assert (found.length_mm, found.pcs_class, found.pieces, found.gaps_mm) == (0.0, "absent", (), ())
    assert found.extent_mm is None


@pytest.mark.parametrize(("length", "expected"), [(15, "absent"), (30, "small"), (60, "present")])
def test_the_class_follows_from_the_length(length, expected):
    assert measure(bar(length), UNIT, DEFAULT_PRESET).pcs_class == expected


def test_the_extent_is_given_in_world_mm():
    mask = np.zeros((9, 50, 40), bool)
    mask[4, 10:31, 12] = True
    extent = measure(mask, (1.0, 0.5, 2.0), DEFAULT_PRESET, origin=(-60.0, -20.0, 3.0)).extent_mm
    assert extent.model_dump() == {"anterior": -5.0, "posterior": -15.0, "superior": 27.0, "inferior": 27.0}


FIGURES = {"bar": bar(40, 17), "arc": arc(), "deep arc": arc(depth=6), "two bars": two_bars(10)}


@pytest.mark.parametrize("mask", FIGURES.values(), ids=FIGURES)
def test_length_does_not_depend_on_the_place_in_the_volume(mask):
    first, moved = (
        measure(mask, UNIT, DEFAULT_PRESET),
        measure(np.pad(mask, ((4, 0), (0, 7), (2, 1))), UNIT, DEFAULT_PRESET),
    )
    assert moved.length_mm == pytest.approx(first.length_mm, abs=1e-9)
    assert [piece.voxels for piece in moved.pieces] == [piece.voxels for piece in first.pieces]


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("mask", FIGURES.values(), ids=FIGURES)
def test_length_does_not_depend_on_the_direction_of_the_axes(mask, axes):
    assert length_of(np.flip(mask, axes)) == pytest.approx(length_of(mask), rel=0.01)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (1, 2, 0)], ids=str)
@pytest.mark.parametrize("mask", FIGURES.values(), ids=FIGURES)
def test_length_does_not_depend_on_the_order_of_the_axes(mask, axes):
    assert length_of(mask.transpose(axes)) == pytest.approx(length_of(mask), rel=0.01)


# Polylines


def test_a_straight_line_keeps_its_length():
    points = np.linspace([0, 0, 0], [3.0, 4.0, 12.0], 30)
    assert path_length(points) == pytest.approx(13, rel=1e-6)


def test_a_staircase_is_measured_along_its_middle():
    steps = np.array([[n // 2 + n % 2, n // 2, 0] for n in range(81)], float)
    assert np.linalg.norm(np.diff(steps, axis=0), axis=1).sum() == 80
    assert path_length(steps) == pytest.approx(40 * np.sqrt(2), rel=0.01)


def test_a_fine_semicircle_keeps_its_length():
    angle = np.linspace(0, np.pi, 120)
    points = 30 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    assert path_length(points) == pytest.approx(30 * np.pi, rel=0.01)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_points_have_no_length(n):
    assert path_length(np.zeros((n, 3))) == 0
