from dataclasses import replace

import numpy as np
import pytest
from builders import COARSE_MM, affine_of
from scipy import ndimage

from napari_pcs.anatomy.checks import (
    MIN_ASYMMETRY,
    asymmetry,
    check_covered,
    check_order,
    check_same_subject,
    check_side,
)
from napari_pcs.data.samples import sample
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
SPACING = (COARSE_MM,) * 3
PEOPLE = ("02", "06", "10", "36")
"""The people whose medial walls are the least flat of 55."""


def mirrored(volume):
    return replace(volume, data=np.ascontiguousarray(volume.data[::-1]))


@pytest.mark.parametrize("side", [L, R])
def test_a_phantom_passes_as_its_own_side_only(side, coarse_left, coarse_right):
    tissue = {L: coarse_left, R: coarse_right}[side].tissue
    check_side(tissue, side)
    with pytest.raises(InputError, match=r"Left and right are exchanged"):
        check_side(tissue, R if side is L else L)


def test_a_hemisphere_whose_array_was_mirrored_is_refused_and_named(coarse_left, tmp_path):
    wrong = replace(mirrored(coarse_left.tissue), path=tmp_path / "Lgrey_white_ada.nii.gz")
    with pytest.raises(InputError, match=r"^Lgrey_white_ada.nii.gz: found a right hemisphere .*expected a left"):
        check_side(wrong, L)


def test_mirroring_changes_the_sign_of_the_asymmetry_and_nothing_else(coarse_left):
    tissue = coarse_left.tissue.data > 0
    assert asymmetry(tissue[::-1], SPACING) == pytest.approx(-asymmetry(tissue, SPACING))
    assert asymmetry(np.pad(tissue, ((9, 2), (3, 0), (0, 5))), SPACING) == pytest.approx(asymmetry(tissue, SPACING))


def test_a_half_ball_has_the_log_ratio_of_its_dome_and_its_face():
    x, y, z = np.ogrid[-60:61, -60:61, -60:61]
    half = (x**2 + y**2 + z**2 <= 60**2) & (x <= 0)
    # The face is exactly flat: only the floor of 0.5 mm is left of it.
    depth = 60 - np.sqrt(np.maximum(60.0**2 - (y**2 + z**2)[0], 0))[(y**2 + z**2)[0] <= 60**2]
    roughest = np.log((np.minimum(np.abs(depth - depth.mean()), 15).mean() + 0.5) / 0.5)
    assert 0.7 * roughest < asymmetry(half, (1.0, 1.0, 1.0)) < 1.1 * roughest


@pytest.mark.parametrize("angle", [-15, -8, 8, 15])
@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_a_turned_head_is_still_told(coarse_left, angle, axes):
    turned = ndimage.rotate(coarse_left.tissue.data > 0, angle, axes=axes, order=0)
    assert asymmetry(turned, SPACING) > 2 * MIN_ASYMMETRY


def test_both_hemispheres_in_one_map_are_refused(coarse_left, coarse_right):
    both = np.concatenate([coarse_left.tissue.data, coarse_right.tissue.data])
    for side in (L, R):
        with pytest.raises(InputError, match=r"no flat medial wall.*may hold both hemispheres"):
            check_side(Volume.from_array(both, coarse_left.tissue.affine), side)


def test_an_empty_map_is_refused():
    with pytest.raises(InputError, match="no grey or white matter"):
        check_side(Volume.from_array(np.zeros((4, 5, 6), np.uint8), np.eye(4)), L)


@pytest.mark.parametrize(("name", "side"), [("mni152-left", L), ("mni152-right", R)])
def test_the_template_is_told(name, side):
    tissue = sample(name).tissue
    check_side(tissue, side)
    with pytest.raises(InputError, match="exchanged"):
        check_side(mirrored(tissue), side)


@pytest.mark.parametrize("side", [L, R])
@pytest.mark.parametrize("person", PEOPLE)
def test_real_hemispheres_are_told(real_data, person, side):
    tissue = Volume.read(real_data / "hemispheres" / f"sub-{person}_hemi-{side}_gw.nii.gz")
    sign = 1 if side is L else -1
    assert sign * asymmetry(tissue.data > 0, tissue.spacing) > 0.5
    with pytest.raises(InputError, match="exchanged"):
        check_side(mirrored(tissue), side)


def test_labels_of_two_sides_must_lie_on_their_sides(tmp_path):
    left, right = np.zeros((2, 9, 4, 4), bool)
    left[1:4], right[5:8] = True, True
    check_order(left, right)
    with pytest.raises(InputError, match=r"^ribbon.mgz: found the left hemisphere's labels to the right"):
        check_order(right, left, tmp_path / "ribbon.mgz")
    with pytest.raises(InputError, match="no tissue of the right hemisphere"):
        check_order(left, np.zeros_like(right))


def test_files_of_two_subjects_are_both_named(tmp_path):
    ribbon = Volume.from_array(np.ones((5, 6, 7), np.uint8), affine_of("RAS"), path=tmp_path / "ribbon.mgz")
    moved = affine_of("RAS")
    moved[0, 3] += 4
    other = Volume.from_array(np.ones((5, 6, 7), np.uint8), moved, path=tmp_path / "brain.mgz")
    check_same_subject(ribbon, ribbon)
    with pytest.raises(InputError, match=r"^brain.mgz: found .*4\.00 mm.*grid of ribbon.mgz.*different subjects"):
        check_same_subject(ribbon, other)


def test_a_brain_must_cover_the_tissue(tmp_path):
    data = np.zeros((10, 10, 10), np.uint8)
    data[2:8] = 1
    tissue = Volume.from_array(data, np.eye(4), path=tmp_path / "ribbon.mgz")
    brain = Volume.from_array(data * 90, np.eye(4), path=tmp_path / "brain.mgz")
    check_covered(tissue, brain)
    shifted = replace(brain, data=np.roll(brain.data, 3, axis=0))
    with pytest.raises(InputError, match=r"^brain.mgz: found an image that is 0 in 50% of the tissue of ribbon.mgz"):
        check_covered(tissue, shifted)
