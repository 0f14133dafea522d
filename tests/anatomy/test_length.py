import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from solids import ARC_MM, arc, bar, tilted

from napari_pcs.anatomy.length import MIN_PIECE_VOXELS, measure, measure_case, measure_mask
from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset, find_preset
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.errors import FrameUnknownError, InputError
from napari_pcs.labels import Label

ACPC = Commissures.from_points((0, 0, 0), (0, -25, 0), FrameSource.WORLD)
SHAPE = (9, 90, 60)


def world(spacing=(1.0, 1.0, 1.0), first=(-8.0, -30.0, 10.0)):
    """Affine of a grid whose first voxel lies there."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = first
    return affine


def rows(*pieces, shape=SHAPE, label=2):
    """Rows of voxels along y: (first, voxels) or (first, voxels, z)."""
    labels = np.zeros(shape, np.uint8)
    for first, voxels, *z in pieces:
        labels[4, first : first + voxels, z[0] if z else 5] = label
    return labels


def painted(solid, label=2):
    """A solid as a label map and its affine, 8 mm to the left of the midline."""
    low = solid.index.min(axis=0) - 2
    labels = np.zeros(solid.index.max(axis=0) - low + 3, np.uint8)
    labels[tuple((solid.index - low).T)] = label
    spacing = np.ptp(solid.mm, axis=0) / np.ptp(solid.index, axis=0)
    affine = world(spacing, solid.mm[0] + (low - solid.index[0]) * spacing)
    affine[0, 3] -= 8 + solid.mm[:, 0].max()
    return labels, affine


def found_in(labels, affine=None, preset=DEFAULT_PRESET, **options):
    return measure(labels, world() if affine is None else affine, ACPC, preset, **options)


def row_mm(voxels, size=1.0):
    """Length of a row: centre to centre, and a quarter of a voxel at each end."""
    return (voxels - 0.5) * size


# Known lengths


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("depth", [3.0, 10.0])
@pytest.mark.parametrize("degrees", [0, 17, 45])
def test_a_sheet_on_the_medial_wall_is_as_long_as_its_medial_edge(degrees, depth, spacing):
    options = {"turn": tilted(degrees), "spacing": (spacing,) * 3}
    assert found_in(*painted(bar(40, 2 * spacing, depth, **options))).length_mm == pytest.approx(
        40, abs=0.02 * 40 + 0.5 * spacing
    )
    found = found_in(*painted(arc(2 * spacing, depth, **options)))
    assert found.length_mm == pytest.approx(ARC_MM, abs=0.02 * ARC_MM + 0.5 * spacing)
    assert found.pcs_class == "present"


def test_the_medial_edge_is_measured_on_either_side_of_the_midline():
    # A sheet 12 mm deep, straight along one edge and waved along the other, 40 mm long.
    depth, y, z = np.meshgrid(np.arange(12), np.arange(60), np.arange(30), indexing="ij")
    wave = 15 + 6 * depth / 12 * np.sin(2 * np.pi * y / 20)
    labels = 2 * ((abs(z - wave) <= 1.5) & (y >= 10) & (y < 50)).astype(np.uint8)
    right, left = world(first=(4.0, -30, 10)), world(first=(-15.0, -30, 10))
    for straight, waved, affine in ((labels, labels[::-1], right), (labels[::-1], labels, left)):
        assert found_in(straight, affine).length_mm == pytest.approx(40, rel=0.03)
        assert found_in(waved, affine).length_mm > 48


def test_a_voxel_size_that_differs_along_the_axes_is_taken_into_account():
    labels = rows((5, 20))
    assert found_in(labels, world((1.0, 2.0, 0.5))).length_mm == pytest.approx(row_mm(20, 2.0))
    assert found_in(labels.transpose(0, 2, 1), world((1.0, 2.0, 0.5))).length_mm == pytest.approx(row_mm(20, 0.5))


# Gaps and pieces


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (0, 2, 1)], ids=["y", "x", "z"])
def test_a_gap_of_10_mm_is_bridged_and_listed(axes):
    found = found_in(rows((5, 20), (34, 20)).transpose(axes))
    # From the centre of voxel 24 to that of 34, less the quarters that the two ends reach beyond.
    assert found.gaps_mm == pytest.approx((9.5,))
    assert found.length_mm == pytest.approx(row_mm(49))
    assert [piece.length_mm for piece in found.pieces] == pytest.approx([row_mm(20)] * 2)
    assert [piece.counted for piece in found.pieces] == [True, True]
    assert (found.pcs_class, found.prominence) == ("present", "prominent")


def test_a_gap_of_25_mm_is_not_bridged():
    found = found_in(rows((5, 22), (51, 20)))
    assert found.length_mm == pytest.approx(row_mm(22))
    assert found.gaps_mm == ()
    assert [(piece.voxels, piece.counted) for piece in found.pieces] == [(22, True), (20, False)]


@pytest.mark.parametrize(("limit", "bridged"), [(14.4, False), (14.6, True), (0.0, False)])
def test_the_preset_decides_which_gaps_are_bridged(limit, bridged):
    found = found_in(rows((5, 20), (39, 20)), preset=ClassPreset(name="p", citation="c", max_gap_mm=limit))
    assert found.preset == "p"
    assert found.length_mm == pytest.approx(row_mm(54) if bridged else row_mm(20))


def test_the_preset_decides_whether_gaps_count():
    labels = rows((5, 20), (34, 20))
    with_gaps, without = (
        found_in(labels, preset=ClassPreset(name="p", citation="c", counts_gaps=c)) for c in (True, False)
    )
    assert with_gaps.gaps_mm == without.gaps_mm
    assert with_gaps.length_mm - without.length_mm == pytest.approx(9.5)
    assert (with_gaps.pcs_class, without.pcs_class) == ("present", "small")


def test_a_gap_is_measured_in_mm_and_not_in_voxels():
    labels = rows((5, 20), (39, 20))
    assert found_in(labels, world((1.0, 0.5, 1.0))).gaps_mm == pytest.approx((14.5 * 0.5,))
    assert found_in(labels, world((1.0, 2.0, 1.0))).gaps_mm == ()


def test_gaps_that_add_up_make_a_present_sulcus_not_prominent():
    found = found_in(rows((5, 15), (33, 15), (61, 15)))
    assert found.gaps_mm == pytest.approx((13.5, 13.5))
    assert found.length_mm == pytest.approx(row_mm(71))
    assert (found.pcs_class, found.prominence) == ("present", "present")


def test_two_parallel_pieces_are_not_added_up():
    one, two = found_in(rows((5, 40))), found_in(rows((5, 40), (5, 38, 11)))
    assert one.length_mm <= two.length_mm <= one.length_mm + 6
    assert len(two.pieces) == 2


def test_all_pieces_are_listed_longest_first_with_those_that_count():
    found = found_in(rows((5, 15), (50, 10), (25, 20), (5, 12, 55)))
    assert [(piece.id, piece.voxels, piece.counted) for piece in found.pieces] == [
        (1, 20, True),
        (2, 15, True),
        (3, 12, False),
        (4, 10, True),
    ]
    assert found.length_mm == pytest.approx(row_mm(55))


def test_specks_are_ignored_in_every_figure():
    labels = rows((5, 40))
    clean = found_in(labels)
    labels[0, 80, 50 : 50 + MIN_PIECE_VOXELS - 1] = 2
    labels[2, 57, 10] = 2
    assert found_in(labels) == clean
    labels[0, 80, 50 + MIN_PIECE_VOXELS - 1] = 2
    assert len(found_in(labels).pieces) == 2


@pytest.mark.parametrize("specks", [0, 3])
def test_nothing_labelled_is_0_mm_and_absent(specks):
    found = found_in(rows((5, specks)))
    assert (found.length_mm, found.pcs_class, found.prominence) == (0.0, "absent", "absent")
    assert (found.pieces, found.gaps_mm, found.extent_mm) == ((), (), None)


@pytest.mark.parametrize(
    ("voxels", "expected"), [(15, "absent"), (20, "absent"), (21, "small"), (30, "small"), (60, "present")]
)
def test_the_class_follows_from_the_length(voxels, expected):
    assert found_in(rows((5, voxels))).pcs_class == expected


def test_only_the_label_asked_for_is_measured():
    labels = rows((5, 30)) + rows((5, 50, 20), label=1) + rows((5, 12, 40), label=4)
    assert found_in(labels).length_mm == pytest.approx(row_mm(30))
    assert found_in(labels, label=1).length_mm == pytest.approx(row_mm(50))
    assert found_in(labels, label=Label.INTRALIMBIC).length_mm == pytest.approx(row_mm(12))
    assert found_in(labels, label=3).length_mm == 0


# Extent and frame


def test_the_extent_is_given_in_mm_from_the_ac():
    labels = np.zeros((9, 50, 40), np.uint8)
    labels[4, 10:31, 12] = 2
    affine = world((1.0, 0.5, 2.0), (-60.0, -20.0, 3.0))
    ac = np.array([-50.0, -30.0, 20.0])
    commissures = Commissures.from_points(ac, ac - [0, 26, 0], FrameSource.CLICKS)
    extent = measure(labels, affine, commissures, DEFAULT_PRESET).extent_mm
    # y from -20 + 10 / 2 to -20 + 30 / 2, z = 3 + 12 * 2.
    assert extent.model_dump() == pytest.approx({"posterior": 15, "anterior": 25, "superior": 7, "inferior": 7})


def test_the_extent_follows_the_ac_pc_line_and_not_the_scanner():
    labels = rows((5, 40))
    pitched = Commissures.from_points((0, 0, 0), (0, -20, -15), FrameSource.CLICKS)
    extent = measure(labels, world(), pitched, DEFAULT_PRESET).extent_mm
    # World y -25 to 14 at z 15; forward is (0, 4, 3) / 5, up is (0, -3, 4) / 5.
    assert extent.model_dump() == pytest.approx(
        {"posterior": (-25 * 4 + 15 * 3) / 5, "anterior": (14 * 4 + 15 * 3) / 5, "superior": 27, "inferior": 3.6}
    )


def moved(affine, commissures, turn, shift):
    """The same image and commissures, turned and shifted in the world."""
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = turn.as_matrix(), shift
    points = (motion[:3, :3] @ p + shift for p in (commissures.ac_mm, commissures.pc_mm))
    return motion @ affine, Commissures.from_points(*points, FrameSource.CLICKS, superior=motion[:3, 2])


FIGURES = {
    "row": (rows((5, 40)), world()),
    "two rows": (rows((5, 20), (34, 20)), world((0.8, 1.0, 1.2))),
    "arc": painted(arc(2, 3)),
    "deep arc": painted(arc(2, 10, turn=tilted(17))),
}
each_figure = pytest.mark.parametrize(("labels", "affine"), FIGURES.values(), ids=FIGURES)


@each_figure
@pytest.mark.parametrize("seed", range(3))
def test_an_oblique_image_gives_the_same_figures_if_its_commissures_are_oblique_too(labels, affine, seed):
    # Nodding by 20 degrees, and other turns by less.
    turn = Rotation.from_euler("xyz", [[20, 0, 0], [-9, 6, 14], [5, -11, -8]][seed], degrees=True)
    there, commissures = moved(affine, ACPC, turn, [12.0, -7.5, 40.0])
    plain, oblique = found_in(labels, affine), measure(labels, there, commissures, DEFAULT_PRESET)
    assert oblique.length_mm == pytest.approx(plain.length_mm, rel=0.005)
    assert oblique.gaps_mm == pytest.approx(plain.gaps_mm, abs=0.05)
    assert oblique.extent_mm.model_dump() == pytest.approx(plain.extent_mm.model_dump(), abs=1e-6)


@each_figure
def test_length_does_not_depend_on_the_place_in_the_volume(labels, affine):
    there = affine.copy()
    there[:3, 3] -= affine[:3, :3] @ [4, 0, 2]
    first, second = found_in(labels, affine), found_in(np.pad(labels, ((4, 0), (0, 7), (2, 1))), there)
    assert second.length_mm == pytest.approx(first.length_mm, abs=1e-9)
    assert [piece.voxels for piece in second.pieces] == [piece.voxels for piece in first.pieces]


@each_figure
def test_the_other_hemisphere_is_as_long(labels, affine):
    mirrored = affine.copy()
    mirrored[0, 3] = -(affine[0, 3] + (labels.shape[0] - 1) * affine[0, 0])
    left, right = found_in(labels, affine), found_in(labels[::-1], mirrored)
    assert right.length_mm == pytest.approx(left.length_mm, rel=0.01)
    assert right.extent_mm.model_dump() == pytest.approx(left.extent_mm.model_dump())


@each_figure
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_length_does_not_depend_on_how_the_array_is_stored(labels, affine, axes):
    stored = affine.copy()
    for axis in axes:
        stored[:3, 3] += stored[:3, axis] * (labels.shape[axis] - 1)
        stored[:3, axis] *= -1
    found = found_in(np.flip(labels, axes), stored)
    assert found.length_mm == pytest.approx(found_in(labels, affine).length_mm, rel=0.01)


# Without a frame


def test_without_commissures_there_is_no_length_and_the_message_says_what_to_do():
    with pytest.raises(FrameUnknownError, match=r"no AC, PC and midline.*two clicks.*tissue map.*AC-PC aligned"):
        measure(rows((5, 40)), world(), None, DEFAULT_PRESET)


def test_a_case_whose_commissures_nobody_knows_has_no_measurement(small_case):
    case = small_case()
    assert case.commissures is None
    assert measure_case(case, np.zeros(case.tissue.shape, np.uint8)) is None


def test_a_case_is_measured_on_its_own_grid(coarse_left):
    labels = coarse_left.labels["ref"].data
    found = measure_case(coarse_left, labels)
    assert found == measure(labels, coarse_left.tissue.affine, coarse_left.commissures, DEFAULT_PRESET)
    assert found == measure_mask(labels == 2, coarse_left.tissue.affine, coarse_left.commissures, DEFAULT_PRESET)
    assert found.length_mm == pytest.approx(60, abs=1.5)


# Protocols


def test_the_sagittal_protocol_leaves_out_what_lies_behind_or_below_the_ac():
    sagittal = find_preset("sagittal")
    # World y -25 to 24 at z 15: 25 voxels lie at 0 or in front of it.
    found = found_in(rows((5, 50)), preset=sagittal)
    assert found.length_mm == pytest.approx(row_mm(25))
    assert found.extent_mm.posterior == 0
    assert found_in(rows((5, 50)), world(first=(-8, -30, -20)), preset=sagittal).length_mm == 0
    assert found_in(rows((5, 50))).length_mm == pytest.approx(row_mm(50))


def test_a_piece_that_the_quadrant_cuts_to_a_speck_is_none():
    found = found_in(rows((5, 25 + MIN_PIECE_VOXELS - 1)), preset=find_preset("sagittal"))
    assert (found.length_mm, found.pieces) == (0, ())


def test_the_newer_protocol_refuses_without_a_cingulate_and_remarks_on_a_missing_intralimbic_sulcus():
    newer = find_preset("intralimbic-first")
    pcs, cingulate, intralimbic = rows((5, 20), (34, 20)), rows((5, 50, 15), label=3), rows((5, 15, 25), label=4)
    with pytest.raises(InputError, match=r"no cingulate sulcus in the label map.*'intralimbic-first'"):
        found_in(pcs + intralimbic, preset=newer)
    without = found_in(pcs + cingulate, preset=newer)
    (note,) = without.notes
    assert "No intralimbic sulcus is labelled" in note
    whole = found_in(pcs + cingulate + intralimbic, preset=newer)
    assert whole.notes == ()
    # Gaps are bridged and listed, and not part of this protocol's length.
    assert whole.length_mm == without.length_mm == pytest.approx(row_mm(49) - 9.5)
    assert whole.gaps_mm == pytest.approx((9.5,))


def test_another_label_than_the_pcs_is_measured_without_asking_for_its_neighbours():
    found = found_in(rows((5, 30, 8), label=1), preset=find_preset("intralimbic-first"), label=1)
    assert found.length_mm == pytest.approx(row_mm(30))
    assert found.notes == ()
