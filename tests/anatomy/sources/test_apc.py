import numpy as np
import pytest
from builders import affine_of

from napari_pcs.anatomy.sources.apc import read_apc
from napari_pcs.commissures import FrameSource
from napari_pcs.errors import InputError
from napari_pcs.volume import Volume

SHAPE = (60, 70, 50)
ZOOMS = (1.5, 1.0, 1.25)
"""x, y, z in mm."""
AC, PC, IH = np.array([28, 30, 24]), np.array([28, 56, 25]), np.array([29, 38, 6])
"""BrainVISA's voxels: right to left, front to back, top to bottom."""
TEXT = """\
AC: 28 30 24
PC: 28 56 25
IH: 29 38 6
The previous coordinates, used by the system, are defined in voxels
They stem from the following coordinates in millimeters:
ACmm: 42.15 30.2 30.5
PCmm: 42.0 56.4 31.25
IHmm: 43.5 38 7.5
"""


@pytest.fixture
def t1(orientation):
    affine = affine_of(orientation, (1.0, 1.0, 1.0))
    # Zooms belong to anatomical directions here, so that one expectation fits all orientations.
    ras = Volume.from_array(np.zeros((2, 3, 4), np.uint8), affine)
    return ras.from_array(np.zeros(SHAPE, np.uint8), ras.affine @ np.diag([*ZOOMS, 1]))


def world(t1, voxel):
    """The first voxel is the rightmost, foremost, topmost; each axis runs against RAS."""
    corner = t1.affine @ [*(n - 1 for n in SHAPE), 1]
    back = -t1.affine[:3, :3] @ np.asarray(voxel, float)
    return corner[:3] + back


def test_millimetres_are_used_before_whole_voxels(tmp_path, t1):
    path = tmp_path / "ada.APC"
    path.write_text(TEXT)
    found = read_apc(path, t1)
    np.testing.assert_allclose(found.ac_mm, world(t1, np.array([42.15, 30.2, 30.5]) / ZOOMS))
    np.testing.assert_allclose(found.pc_mm, world(t1, np.array([42.0, 56.4, 31.25]) / ZOOMS))
    assert (found.source, found.detail) == (FrameSource.FILE, "ada.APC")


def test_voxels_are_enough_and_give_the_midline_by_the_third_point(tmp_path, t1):
    path = tmp_path / "ada.APC"
    path.write_text("\n".join(TEXT.splitlines()[:3]))
    found = read_apc(path, t1)
    ac, pc, ih = (world(t1, point) for point in (AC, PC, IH))
    np.testing.assert_allclose(found.ac_mm, ac)
    np.testing.assert_allclose(found.pc_mm, pc)
    assert np.dot(found.right, ih - ac) == pytest.approx(0, abs=1e-9)
    assert np.dot(found.right, t1.affine[:3, 0]) > 0.9 * ZOOMS[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AC: 28 30 24\n", "found no PC"),
        ("", "found no AC and no PC"),
        ("AC: 28 30\nPC: 28 56 25\n", "found no AC"),
        ("AC: 28 30 24\nPC: 28 31 24\n", "commissure 1.0 mm apart"),
        ("AC: 28 56 25\nPC: 28 30 24\n", "does not lie in front"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path, text, said):
    path = tmp_path / "ada.APC"
    path.write_text(text)
    t1 = Volume.from_array(np.zeros(SHAPE, np.uint8), np.diag([*ZOOMS, 1]))
    with pytest.raises(InputError, match=rf"^ada.APC: .*{said}"):
        read_apc(path, t1)
