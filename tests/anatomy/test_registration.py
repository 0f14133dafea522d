import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from napari_pcs.anatomy.atlas import cerebrum
from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.location import locate
from napari_pcs.anatomy.registration import register
from napari_pcs.anatomy.tissue import recognise
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case
from napari_pcs.commissures import AC_MNI, PC_MNI, FrameSource
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


def motion(degrees=0.0, axis=(1.0, 0.0, 0.0), scale=1.0, shift=(0.0, 0.0, 0.0)):
    """Affine (4, 4) from MNI152 mm to the world mm of somebody who lies so, and has a head of that size."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_rotvec(np.radians(degrees) * np.asarray(axis)).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def average(side, from_mni, spacing=2.0):
    """The average hemisphere as the tissue map of somebody, on an upright grid of their own."""
    atlas = cerebrum(side)
    ends = np.argwhere(atlas.grey + atlas.white > 0.5)[[0, -1]]
    corners = np.array(np.meshgrid(*np.stack([ends.min(0) * 0, np.array(atlas.grey.shape) - 1]).T)).reshape(3, -1)
    world = from_mni[:3, :3] @ (atlas.affine[:3, :3] @ corners + atlas.affine[:3, 3:]) + from_mni[:3, 3:]
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = world.min(axis=1)
    shape = np.ceil(np.ptp(world, axis=1) / spacing).astype(int) + 1
    back = np.linalg.inv(from_mni @ atlas.affine) @ affine
    grey, white = (
        ndimage.affine_transform(channel, back[:3, :3], back[:3, 3], tuple(shape), order=1)
        for channel in (atlas.grey, atlas.white)
    )
    tissue = np.where(grey + white > 0.5, np.where(white > grey, 2, 1), 0).astype(np.uint8)
    return Volume.from_array(tissue, affine)


def frame_of(volume, side):
    return estimate_frame(volume.data > 0, volume.spacing, side)


def error_mm(found, from_mni):
    return [
        float(np.linalg.norm(from_mni[:3, :3] @ p + from_mni[:3, 3] - q))
        for p, q in ((AC_MNI, found.ac_mm), (PC_MNI, found.pc_mm))
    ]


NOD = motion(8, (1, 0, 0), 0.93, (3, -20, 35))
TURN = motion(6, (0, 0.6, 0.8), 0.97, (-6, 14, -9))


@pytest.fixture(scope="module")
def nodding():
    """The left average with its head down, and its commissures."""
    tissue = average(L, NOD)
    return tissue, register(tissue, frame_of(tissue, L))


@pytest.mark.parametrize(("side", "from_mni"), [(L, NOD), (R, TURN)], ids=["left, nodding", "right, turned"])
def test_the_average_itself_is_brought_back_within_2_mm(nodding, side, from_mni):
    tissue = average(side, from_mni)
    found = nodding[1] if side is L else register(tissue, frame_of(tissue, side))
    assert max(error_mm(found, from_mni)) < 2
    assert found.source is FrameSource.REGISTRATION
    assert "r = 0.9" in found.detail
    # The midline plane of the template, wherever it went.
    midline = np.array([[0, -60, 10], [0, 30, 50], [0, 0, 60]]) @ from_mni[:3, :3].T + from_mni[:3, 3]
    assert np.abs(found.to_acpc(midline)[:, 0]).max() < 2.5


def test_where_the_coordinates_begin_and_empty_space_around_the_brain_do_not_matter(nodding):
    tissue, first = nodding
    affine = tissue.affine.copy()
    affine[:3, 3] += np.array([40, -25, 10]) - affine[:3, :3] @ [9, 2, 0]
    moved = Volume.from_array(np.pad(tissue.data, ((9, 0), (2, 14), (0, 6))), affine)
    second = register(moved, frame_of(moved, L))
    np.testing.assert_allclose(np.subtract(second.ac_mm, first.ac_mm), (40, -25, 10), atol=0.5)


def test_the_affine_leads_to_mni152(nodding):
    np.testing.assert_allclose((nodding[1].to_mni @ NOD)[:3, :3], np.eye(3), atol=0.03)
    np.testing.assert_allclose((nodding[1].to_mni @ NOD)[:3, 3], 0, atol=2.5)


def test_the_other_hemisphere_is_refused():
    tissue = average(R, motion())
    with pytest.raises(InputError, match=r"agrees with the average hemisphere only to r = .*other side.*Set AC and PC"):
        register(tissue, frame_of(tissue, L))


def noise(seed=0):
    """A box of noise of the size of a hemisphere."""
    data = np.random.default_rng(seed).integers(0, 3, (30, 80, 55)).astype(np.uint8)
    return Volume.from_array(data, np.diag([2.0, 2.0, 2.0, 1.0]))


# Locating a case


def test_a_case_that_cannot_be_aligned_is_returned_without_and_the_sentence_says_why():
    tissue = noise()
    case, sentence = locate(Case(CaseKey("noise", "", L), tissue, tissue))
    assert case.commissures is None
    assert sentence.startswith("AC and PC unknown: found a tissue map that agrees")


def test_a_case_that_knows_is_left_alone(coarse_left):
    case, sentence = locate(coarse_left)
    assert case is coarse_left
    assert sentence == "AC and PC from the world (made so)"


def test_a_case_that_nobody_knows_is_aligned(nodding):
    tissue, known = nodding
    case, sentence = locate(Case(CaseKey("x", "", L), tissue, tissue))
    assert case.commissures == known
    assert sentence.startswith("AC and PC from the registration (tissue map to the average of 55 people")


# Real people


@pytest.mark.parametrize(("person", "side"), [("sub-01", L), ("sub-20", R)])
def test_a_real_hemisphere_is_located_as_its_t1_was(real_data, person, side):
    # Another program aligned the whole T1; these maps lie in the rigidly aligned MNI frame.
    volume = Volume.read(real_data / "hemispheres" / f"{person}_hemi-{side.value}_gw.nii.gz")
    data, _ = recognise(volume, side)
    tissue = volume.with_data(data)
    found = register(tissue, frame_of(tissue, side))
    with np.load(real_data / "affine" / f"{person}.npz") as known:
        from_mni = np.linalg.inv(known["rigid_mni2sub"]) @ known["affine_mni2sub"]
    assert max(error_mm(found, from_mni)) < 3
