from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_pcs.anatomy.mni import to_mni
from napari_pcs.commissures import AC_MNI, PC_MNI, Commissures, FrameSource
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import FrameUnknownError


@pytest.fixture(scope="module")
def case():
    return phantom(pcs_length_mm=0, spacing_mm=2.0)


def test_a_registration_is_taken_as_it_is(case):
    world = np.eye(4)
    world[:3, :3] = 1.1 * Rotation.from_rotvec([0.1, 0, 0.05]).as_matrix()
    world[:3, 3] = 3, -2, 1
    known = replace(case, commissures=Commissures.from_mni(world, FrameSource.REGISTRATION))
    np.testing.assert_allclose(to_mni(known), world @ case.tissue.affine)


def test_two_points_bring_the_ac_upon_the_templates_and_the_pc_behind_it(case):
    ac, pc = np.array([1.0, 4, -3]), np.array([2.0, -22, -6])
    known = replace(case, commissures=Commissures.from_points(ac, pc, FrameSource.CLICKS))
    matrix = to_mni(known) @ np.linalg.inv(case.tissue.affine)
    moved = [matrix[:3, :3] @ p + matrix[:3, 3] for p in (ac, pc)]
    assert moved[0] == pytest.approx(AC_MNI)
    ours, theirs = moved[1] - moved[0], np.subtract(PC_MNI, AC_MNI)
    assert ours / np.linalg.norm(ours) == pytest.approx(theirs / np.linalg.norm(theirs))
    stretch = np.linalg.svd(matrix[:3, :3])[1]
    assert stretch == pytest.approx([stretch[0]] * 3)
    assert np.linalg.det(matrix[:3, :3]) > 0


def test_without_commissures_there_are_no_coordinates(case):
    with pytest.raises(FrameUnknownError):
        to_mni(replace(case, commissures=None))
