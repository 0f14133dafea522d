from itertools import permutations

import numpy as np
import pytest
from scipy.sparse import csgraph
from solids import ARC_DEGREES, ARC_MM, Solid, arc, bar, sector, tilted, turned

from napari_pcs.anatomy.line import END_VOXELS, STEP_MM, hull_line, polyline_length, voxel_graph

UNIT = (1.0, 1.0, 1.0)
SPACINGS = {"0.7 mm": (0.7,) * 3, "1 mm": UNIT, "1.2 mm": (1.2,) * 3, "anisotropic": (0.7, 1.0, 1.2)}
TURNS = {f"{degrees} degrees": tilted(degrees) for degrees in (0, 17, 45)} | {f"seed {n}": turned(n) for n in range(3)}
SHAPES = ("line", "tube", "sheet")
SHIFTS = ((0.3, -0.2, 0.1), (-0.15, 0.3, 0.4))
"""Where the solid lies between the voxels, in voxels."""


def section(shape, spacing):
    """Width and depth in mm: a line and a tube as many voxels thick, or a sheet 10 mm deep."""
    voxel = max(spacing)
    return {"line": (1.8 * voxel,) * 2, "tube": (3 * voxel,) * 2, "sheet": (1.8 * voxel, 10.0)}[shape]


def line_of(solid, spacing=UNIT, depth=None):
    graph = voxel_graph(solid.index, spacing)
    return hull_line(solid.mm, graph, solid.depth if depth is None else depth, spacing)


def length_of(solid, spacing=UNIT, depth=None):
    return polyline_length(line_of(solid, spacing, depth))


def check(found, true, spacing):
    """Within 2 % over all places between the voxels, and each within 2 % and a quarter of a voxel at each end."""
    assert np.mean(found) == pytest.approx(true, abs=0.02 * true + (0.2 if max(spacing) > 1 else 0))
    assert found == pytest.approx([true] * len(found), abs=0.02 * true + 0.5 * max(spacing))


# Known lengths


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_straight_bar_of_40_mm_is_measured_within_2_per_cent(shape, turn, spacing):
    size = section(shape, spacing)
    check([length_of(bar(40, *size, turn=turn, spacing=spacing, shift=s), spacing) for s in SHIFTS], 40, spacing)


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_arc_round_the_genu_is_measured_within_2_per_cent(shape, turn, spacing):
    assert pytest.approx(66.3, abs=0.05) == ARC_MM
    size = section(shape, spacing)
    check([length_of(arc(*size, turn=turn, spacing=spacing, shift=s), spacing) for s in SHIFTS], ARC_MM, spacing)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("inner", "outer"), [(33, 43), (28, 38)])
def test_the_line_follows_the_edge_that_faces_outwards(inner, outer, seed):
    # A piece of a ring, deep along its radius: the edge is the outer arc, or the inner one where that faces outwards.
    solid = sector(inner, outer, 1.8, turn=turned(seed))
    for depth, radius in ((solid.depth, outer), (-solid.depth, inner)):
        # The edge's voxels lie up to 1 mm inside it, half a voxel to a voxel in the mean.
        inside = radius - 0.7 * np.sign(radius - (inner + outer) / 2)
        assert length_of(solid, depth=depth) == pytest.approx(inside * np.radians(ARC_DEGREES), rel=0.03)


def test_only_differences_of_depth_matter():
    solid = arc(1.8, 10, turn=turned(5))
    np.testing.assert_array_equal(line_of(solid), line_of(solid, depth=solid.depth + 64.0))


def test_a_sheet_twice_as_deep_is_no_longer():
    found = [length_of(bar(60, 1.8, depth, turn=turned(4))) for depth in (5.0, 10.0, 20.0)]
    assert found == pytest.approx([60] * 3, rel=0.025)


def rasterised(degrees, spacing, length=40.0):
    """A line one voxel thick in a sagittal plane, by rounding."""
    along = np.linspace(0, length - spacing, 4000)
    y, z = (np.round(along * f(np.radians(degrees)) / spacing).astype(int) for f in (np.cos, np.sin))
    index = np.unique(np.stack([np.full_like(y, 2), y, z], axis=1), axis=0)
    return Solid(index, index * spacing, np.zeros(len(index)))


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("degrees", [0, 17, 30, 45, 60, 90])
def test_a_line_one_voxel_thick_is_measured_within_2_per_cent_and_half_a_voxel_at_each_end(degrees, spacing):
    found = length_of(rasterised(degrees, spacing), (spacing,) * 3)
    assert found == pytest.approx(40, abs=0.02 * 40 + spacing)


# Invariances

FIGURES = {
    "line": (bar(40, 1.8, 1.8, turn=turned(7)), UNIT),
    "arc": (arc(3, 3, turn=turned(8)), UNIT),
    "deep arc": (arc(1.8, 10, turn=turned(9)), UNIT),
    "anisotropic": (arc(2.2, 10, turn=turned(10), spacing=(0.7, 1.0, 1.2)), (0.7, 1.0, 1.2)),
}
each_figure = pytest.mark.parametrize(("solid", "spacing"), FIGURES.values(), ids=FIGURES)


@each_figure
def test_a_shift_by_whole_voxels_shifts_the_line(solid, spacing):
    offset = np.array([4, -7, 60])
    moved = Solid(solid.index + offset, solid.mm + offset * spacing, solid.depth)
    np.testing.assert_allclose(line_of(moved, spacing), line_of(solid, spacing) + offset * spacing, atol=1e-9)


@each_figure
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_mirror_image_is_as_long(solid, spacing, axis):
    sign = np.ones(3)
    sign[axis] = -1
    mirrored = Solid((solid.index * sign).astype(int), solid.mm * sign, solid.depth)
    assert length_of(mirrored, spacing) == pytest.approx(length_of(solid, spacing), rel=0.01)


@each_figure
def test_the_order_of_the_axes_does_not_matter(solid, spacing):
    for order in permutations(range(3)):
        turned_round = Solid(solid.index[:, order], solid.mm[:, order], solid.depth)
        found = length_of(turned_round, tuple(spacing[axis] for axis in order))
        assert found == pytest.approx(length_of(solid, spacing), rel=0.01)


@each_figure
def test_the_order_of_the_voxels_does_not_matter_and_the_line_begins_in_front(solid, spacing):
    expected = line_of(solid, spacing)
    assert expected[0, 1] > expected[-1, 1]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(solid.index))
        shuffled = Solid(solid.index[order], solid.mm[order], solid.depth[order])
        found = line_of(shuffled, spacing)
        assert found[0, 1] > found[-1, 1]
        assert polyline_length(found) == pytest.approx(polyline_length(expected), rel=0.01)
        np.testing.assert_allclose(found[[0, -1]], expected[[0, -1]], atol=1.0)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_length_scales_with_the_voxel_size_but_for_the_fixed_step(factor):
    solid = arc(1.8, 10, turn=turned(11))
    large = Solid(solid.index, solid.mm * factor, solid.depth * factor)
    assert length_of(large, (factor,) * 3) == pytest.approx(factor * length_of(solid), rel=0.025)


# Ends and small pieces


@pytest.mark.parametrize("voxels", [2, 3, 5, 9])
def test_a_short_row_is_as_long_as_its_voxels_less_half_of_one(voxels):
    index = np.array([[3, n, 5] for n in range(voxels)])
    found = length_of(Solid(index, index * 0.8, np.zeros(voxels)), (0.8,) * 3)
    # From centre to centre, and a quarter of a voxel beyond each of the two ends.
    assert found == pytest.approx((voxels - 1 + 2 * END_VOXELS) * 0.8, abs=0.02)


def test_a_single_voxel_has_a_line_too():
    found = line_of(Solid(np.array([[3, 4, 5]]), np.array([[3.0, 4, 5]]), np.zeros(1)))
    np.testing.assert_allclose(found, [[3, 4.25, 5], [3, 4, 5], [3, 3.75, 5]])


def test_the_points_of_a_line_lie_about_a_step_apart():
    line = line_of(arc(1.8, 10, turn=turned(12)))
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)[1:-1]
    assert steps == pytest.approx(np.full(len(steps), STEP_MM), rel=0.5)


# Polylines and the graph


def test_the_length_of_a_polyline_is_the_sum_of_its_parts():
    assert polyline_length(np.array([[0, 0, 0], [3, 4, 0], [3, 4, 12]])) == 17
    assert polyline_length(np.zeros((1, 3))) == 0


def test_the_graph_joins_the_26_neighbours_with_their_distances_in_mm():
    index = np.argwhere(np.ones((3, 3, 3))) + np.array([40, -3, 7])
    graph = voxel_graph(index, (0.5, 1.0, 2.0)).toarray()
    np.testing.assert_array_equal(graph, graph.T)
    apart = np.abs(index[:, None] - index[None])
    near = (apart.max(axis=-1) == 1).astype(float)
    np.testing.assert_allclose(graph, near * np.linalg.norm(apart * [0.5, 1.0, 2.0], axis=-1))


def test_voxels_that_do_not_touch_are_not_joined():
    graph = voxel_graph(np.array([[0, 0, 0], [0, 0, 2], [0, 0, 3]]), UNIT)
    assert csgraph.connected_components(graph)[1].tolist() == [0, 1, 1]
