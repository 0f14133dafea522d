import json

import numpy as np
import pytest
from builders import affine_of, asymmetric, corrected_by, predicted_by

from napari_pcs.anatomy.landmarks import WORLD, commissures_in_file
from napari_pcs.case import LabelRole
from napari_pcs.commissures import AC_MNI, PC_MNI, Commissures, FrameSource
from napari_pcs.errors import InputError
from napari_pcs.session import Session
from napari_pcs.volume import Volume

SHAPE = (20, 40, 30)


@pytest.fixture
def stored(write_nifti):
    """Write an image and a sidecar, and read the image again."""

    def build(content=None, orientation="RAS", name="sub-01_hemi-L_gw", zooms=(1.0, 1.0, 1.0), codes=(1, 1)):
        affine = affine_of(orientation, zooms)
        path = write_nifti(f"{name}.nii.gz", asymmetric(SHAPE), affine=affine, codes=codes)
        if content is not None:
            path.with_name(f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return Volume.read(path)

    return build


def bids(ac, pc, **others):
    return {"AnatomicalLandmarkCoordinates": {"AC": ac, "PC": pc, **others}}


# Landmarks in voxels


def test_the_landmarks_of_a_ras_image_are_voxels_of_the_file(stored):
    found = commissures_in_file(stored(bids([5, 30, 12], [5, 6, 10]), zooms=(0.5, 1.0, 2.0)))
    # The first voxel lies at (-31.5, 12.25, 7).
    np.testing.assert_allclose(found.ac_mm, (-31.5 + 2.5, 12.25 + 30, 7 + 24), atol=1e-5)
    np.testing.assert_allclose(found.pc_mm, (-31.5 + 2.5, 12.25 + 6, 7 + 20), atol=1e-5)
    assert (found.source, found.detail) == (FrameSource.FILE, "sub-01_hemi-L_gw.json")


def test_the_landmarks_of_an_lpi_image_are_voxels_of_the_file_and_not_of_the_array(stored):
    found = commissures_in_file(stored(bids([5, 6, 12], [5, 30, 10]), "LPI", zooms=(0.5, 1.0, 2.0)))
    # Its axes run to the left, backwards and down.
    np.testing.assert_allclose(found.ac_mm, (-31.5 - 2.5, 12.25 - 6, 7 - 24), atol=1e-5)
    np.testing.assert_allclose(found.pc_mm, (-31.5 - 2.5, 12.25 - 30, 7 - 20), atol=1e-5)


def test_the_axes_of_a_file_may_be_permuted(stored):
    # PIR: backwards, down, to the right.
    found = commissures_in_file(stored(bids([4, 20, 12], [29, 22, 12]), "PIR"))
    np.testing.assert_allclose(found.ac_mm, (-31.5 + 12, 12.25 - 4, 7 - 20), atol=1e-5)
    np.testing.assert_allclose(found.pc_mm, (-31.5 + 12, 12.25 - 29, 7 - 22), atol=1e-5)


def test_the_landmarks_of_any_image_lie_where_its_affine_puts_them(stored, orientation):
    affine = affine_of(orientation, (0.7, 1.0, 1.2))
    ac = affine @ [9, 19, 14, 1]
    pc = np.linalg.inv(affine) @ (ac - [0, 24, 0, 0])
    found = commissures_in_file(stored(bids([9, 19, 14], pc[:3].tolist()), orientation, zooms=(0.7, 1.0, 1.2)))
    np.testing.assert_allclose(found.ac_mm, ac[:3], atol=1e-4)
    np.testing.assert_allclose(found.pc_mm, ac[:3] - [0, 24, 0], atol=1e-4)


def test_an_oblique_image_is_turned_about_the_line_as_its_own_third_axis(stored):
    volume = stored(bids([9, 6, 14], [9, 31, 14]), "oblique")
    right = commissures_in_file(volume).right
    # LPI turned by 14 degrees: the midline plane is spanned by the turned second and third axes.
    np.testing.assert_allclose(right, -affine_of("oblique")[:3, 0], atol=1e-5)


def test_an_interhemispheric_point_decides_the_midline(stored):
    found = commissures_in_file(stored(bids([9, 30, 5], [9, 5, 5], IH=[12, 18, 25])))
    ih = np.array([[-31.5 + 12, 12.25 + 18, 7 + 25]])
    assert found.to_acpc(ih)[0, 0] == pytest.approx(0, abs=1e-5)
    assert found.right[2] < 0
    assert commissures_in_file(stored(bids([9, 30, 5], [9, 5, 5]))).right == pytest.approx((1, 0, 0))


# Our own fields


def test_our_own_fields_win_over_voxels(stored):
    known = Commissures.from_points((1, 2, 3), (1, -22, 2), FrameSource.CLICKS, "by Ada")
    content = {"Commissures": known.model_dump(mode="json"), **bids([9, 30, 5], [9, 5, 5])}
    assert commissures_in_file(stored(content)) == known


@pytest.mark.parametrize("content", [None, {}, {"Manual": True}, {"AnatomicalLandmarkCoordinates": {"AC": [1, 2, 3]}}])
def test_a_file_that_says_nothing_of_them_knows_nothing(stored, content):
    assert commissures_in_file(stored(content)) is None


def test_an_image_that_is_no_file_knows_nothing():
    assert commissures_in_file(Volume.from_array(asymmetric(SHAPE), affine_of("RAS"))) is None


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_the_sidecar_is_found_beside_either_ending(write_nifti, ending):
    path = write_nifti(f"Lgrey_white_x.{ending}", asymmetric(SHAPE))
    path.with_name("Lgrey_white_x.json").write_text(json.dumps(bids([9, 30, 5], [9, 5, 5])))
    assert commissures_in_file(Volume.read(path)).source is FrameSource.FILE


# A session


def test_every_label_file_of_a_session_finds_the_frame_of_its_case(tmp_path, coarse_left):
    session = Session.create(tmp_path / "study")
    labels = coarse_left.labels[LabelRole.REFERENCE].data
    case = coarse_left.with_labels(LabelRole.PREDICTED, labels, predicted_by())
    session.add(case)
    session.write_correction(case.with_labels(LabelRole.CORRECTED, labels, corrected_by()), labels, 1.0)
    files = sorted(session.root.rglob("*_dseg.nii.gz"))
    assert len(files) == 4
    for path in files:
        assert commissures_in_file(Volume.read(path)) == coarse_left.commissures


# What the header says


@pytest.mark.parametrize("codes", [(4, 1), (0, 4), (4, 4)])
def test_an_image_in_mni152_has_the_template_s_commissures(stored, codes):
    found = commissures_in_file(stored(codes=codes))
    np.testing.assert_allclose(found.ac_mm, AC_MNI)
    np.testing.assert_allclose(found.pc_mm, PC_MNI)
    np.testing.assert_allclose(found.to_mni, np.eye(4))


@pytest.mark.parametrize("codes", [(3, 1), (0, 3)])
def test_an_image_in_talairach_s_space_has_the_ac_at_its_origin(stored, codes):
    found = commissures_in_file(stored(codes=codes))
    assert found.ac_mm == (0, 0, 0)
    assert found.pc_mm == (0, -24, 0)
    assert "Talairach" in found.detail


@pytest.mark.parametrize("codes", [(1, 1), (2, 2), (1, 4), (0, 2)])
def test_scanner_and_aligned_coordinates_say_nothing(stored, codes):
    assert commissures_in_file(stored(codes=codes)) is None


def test_a_sidecar_wins_over_the_header(stored):
    found = commissures_in_file(stored(bids([9, 30, 5], [9, 5, 5]), codes=(4, 4)))
    assert found.detail == "sub-01_hemi-L_gw.json"


def test_the_world_s_own_frame_leaves_points_where_they_are():
    points = np.array([[3.0, -40, 61]])
    np.testing.assert_allclose(WORLD.to_acpc(points), points)


# Damage


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '"text"',
        bids([1, 2], [3, 4, 5]),
        bids("here", [3, 4, 5]),
        bids([1, 2, 3], [3, 4, None]),
        {"AnatomicalLandmarkCoordinates": 5},
        {"Commissures": {"ac_mm": [0, 0, 0]}},
        {"Commissures": None},
        bids([9, 30, 5], [9, 5, 5], IH=[1, 2, float("nan")]),
    ],
    ids=lambda c: str(c)[:40],
)
def test_a_damaged_sidecar_is_named_and_what_was_expected_is_said(stored, content):
    found = r"^sub-01_hemi-L_gw\.json: found landmarks that cannot be read \(.+\), expected"
    with pytest.raises(InputError, match=found) as e:
        commissures_in_file(stored(content))
    assert "Correct the file" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("ac", "pc", "message"),
    [
        ([9, 30, 5], [9, 29, 5], "1.0 mm apart, expected 15 to 40 mm"),
        ([9, 5, 5], [9, 30, 5], "does not lie in front of the posterior one"),
    ],
)
def test_impossible_landmarks_are_refused_with_the_file_s_name(stored, ac, pc, message):
    with pytest.raises(InputError, match=rf"^sub-01_hemi-L_gw\.json: found .*{message}"):
        commissures_in_file(stored(bids(ac, pc)))
