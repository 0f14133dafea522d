import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from napari_pcs.commissures import AC_MNI, PC_MNI, Commissures, FrameSource
from napari_pcs.errors import InputError

CLICKS = FrameSource.CLICKS
EXAMPLES = {
    "world": ((0, 0, 0), (0, -25, 0), (0, 0, 1)),
    "pitched": ((3.5, 40, -12), (3.1, 15.5, -19), (0, 0, 1)),
    "rolled": ((-2, 5, 7), (-1, -20, 4), (0.2, 0.1, 1)),
    "upright to the line": ((0, 24, 0), (0, 0, 0), (0.4, 0.9, 0.5)),
}
each_example = pytest.mark.parametrize(("ac", "pc", "superior"), EXAMPLES.values(), ids=EXAMPLES)


def frame(ac, pc, superior=(0, 0, 1)):
    return Commissures.from_points(ac, pc, CLICKS, superior=superior)


def affine(turn=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.diag(scale)
    matrix[:3, 3] = shift
    return matrix


# From two points


@each_example
def test_the_axes_are_orthonormal_and_right_handed(ac, pc, superior):
    axes = frame(ac, pc, superior).axes
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
    # Right stays right, forward forward and up up.
    assert (np.diag(axes) > 0.5).all()


@each_example
def test_the_ac_is_the_origin_and_the_pc_lies_straight_behind_it(ac, pc, superior):
    found = frame(ac, pc, superior).to_acpc(np.array([ac, pc], float))
    apart = np.linalg.norm(np.subtract(ac, pc))
    np.testing.assert_allclose(found, [[0, 0, 0], [0, -apart, 0]], atol=1e-9)


@each_example
def test_the_midline_plane_holds_the_direction_to_the_vertex(ac, pc, superior):
    point = np.asarray(ac, float) + 50 * np.asarray(superior)
    right, _, up = frame(ac, pc, superior).to_acpc(point[None])[0]
    assert right == pytest.approx(0, abs=1e-9)
    assert up > 0


def test_distances_do_not_change():
    points = np.random.default_rng(0).uniform(-80, 80, (20, 3))
    there = frame(*EXAMPLES["rolled"]).to_acpc(points)
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(there, axis=0), axis=1), np.linalg.norm(np.diff(points, axis=0), axis=1)
    )


def test_in_a_world_that_is_aligned_already_nothing_moves():
    points = np.random.default_rng(1).uniform(-80, 80, (5, 3))
    np.testing.assert_allclose(frame((0, 0, 0), (0, -25, 0)).to_acpc(points), points, atol=1e-12)


def test_a_pitched_line_is_what_a_hand_computes():
    # Forward is (0, 4, 3) / 5 and up (0, -3, 4) / 5.
    found = frame((10, 20, 15), (10, 0, 0)).to_acpc(np.array([[12.0, 20, 25]]))
    np.testing.assert_allclose(found, [[2, 6, 8]])


@pytest.mark.parametrize("apart", [0.0, 5.0, 14.9, 40.1, 250.0])
def test_points_that_are_not_as_far_apart_as_commissures_are_refused(apart):
    with pytest.raises(InputError, match=rf"{apart:.1f} mm apart, expected 15 to 40 mm\. Set both points again"):
        frame((0, 0, 0), (0, -apart, 0))


@pytest.mark.parametrize("apart", [15.0, 26.0, 40.0])
def test_the_limits_themselves_are_accepted(apart):
    assert frame((0, 0, 0), (0, -apart, 0)).pc_mm == (0, -apart, 0)


@pytest.mark.parametrize(("ac", "pc"), [((0, -25, 0), (0, 0, 0)), ((0, 0, 25), (0, 0, 0)), ((20, 0, 0), (0, 0, 0))])
def test_exchanged_points_and_points_above_one_another_are_refused(ac, pc):
    with pytest.raises(InputError, match=r"does not lie in front of the posterior one.*exchanged"):
        frame(ac, pc)


# From MNI152


def test_the_identity_gives_the_template_s_own_commissures():
    found = Commissures.from_mni(np.eye(4), FrameSource.FILE)
    assert found.ac_mm == pytest.approx(AC_MNI)
    assert found.pc_mm == pytest.approx(PC_MNI)
    np.testing.assert_allclose(found.right, (1, 0, 0), atol=1e-12)


@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (1.08, 1.12, 1.05)], ids=["rigid", "affine"])
def test_a_known_transform_brings_the_commissures_back(scale):
    to_mni = affine((8, -5, 11), scale, (2, -14, 30))
    found = Commissures.from_mni(to_mni, FrameSource.REGISTRATION, "known")
    for point, expected in ((found.ac_mm, AC_MNI), (found.pc_mm, PC_MNI)):
        np.testing.assert_allclose(to_mni[:3, :3] @ point + to_mni[:3, 3], expected, atol=1e-9)
    np.testing.assert_allclose(found.to_mni, to_mni)
    assert (found.source, found.detail) == (FrameSource.REGISTRATION, "known")
    # The midline of MNI152, x = 0, is the midline here.
    back = np.linalg.inv(to_mni)
    midline = np.array([back[:3, :3] @ (0, y, z) + back[:3, 3] for y, z in ((-60, 10), (30, 50), (0, -20))])
    np.testing.assert_allclose(found.to_acpc(midline)[:, 0], 0, atol=1e-9)


def test_a_transform_that_shrinks_a_brain_to_a_nut_is_refused():
    with pytest.raises(InputError, match=r"mm apart, expected 15 to 40 mm"):
        Commissures.from_mni(affine(scale=(3, 3, 3)), FrameSource.REGISTRATION)


# On disk


@each_example
def test_the_sidecar_comes_back(ac, pc, superior):
    found = Commissures.from_points(ac, pc, CLICKS, "by Ada", superior=superior, to_mni=affine((3, 0, 0)))
    record = found.sidecar(np.eye(4))["Commissures"]
    assert Commissures.model_validate(record) == found


def test_the_sidecar_gives_bids_landmarks_in_voxels_of_the_stored_file():
    stored = np.array([[-0.5, 0, 0, 60], [0, 0, 2, -40], [0, 1, 0, 10], [0, 0, 0, 1.0]])
    found = frame((3, 2, 15), (3, -24, 14)).sidecar(np.linalg.inv(stored))["AnatomicalLandmarkCoordinates"]
    # x = 60 - i / 2, y = 2 k - 40, z = j + 10.
    assert found == {"AC": [114, 5, 21], "PC": [114, 4, 8]}


def test_a_frame_is_frozen_and_has_no_other_fields():
    found = frame((0, 0, 0), (0, -25, 0))
    with pytest.raises(ValidationError, match="frozen"):
        found.ac_mm = (1, 2, 3)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Commissures.model_validate(found.model_dump() | {"nose": [0, 0, 0]})
