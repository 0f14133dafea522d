import numpy as np
import pytest
from scipy import ndimage

from napari_pcs.anatomy.t1.alignment import Agreement, agreement, check_alignment, load_template, reduced
from napari_pcs.errors import InputError


def test_the_template_agrees_with_itself_wherever_its_world_lies(moved):
    template = load_template()
    r = agreement(template.data, moved @ template.affine, np.linalg.inv(moved), template)
    assert min(r) > 0.98
    assert agreement(template.data, template.affine, np.linalg.inv(moved), template).whole < 0.6


def test_a_coarser_grid_keeps_points_in_their_place():
    data = np.zeros((40, 44, 48), dtype=np.float32)
    data[12:20, 20:28, 30:36] = 1
    affine = np.diag([0.9, 1.0, 1.2, 1.0])
    affine[:3, 3] = -20, 7, 3
    coarse, other = reduced(data, affine, 2.5)
    before, after = (a[:3, :3] @ ndimage.center_of_mass(d) + a[:3, 3] for d, a in ((data, affine), (coarse, other)))
    np.testing.assert_allclose(after, before, atol=0.25)
    np.testing.assert_allclose(np.linalg.norm(other[:3, :3], axis=0), 2.5)


def test_a_plausible_alignment_passes(moved):
    check_alignment(np.linalg.inv(moved), Agreement(0.8, 0.7))


def test_a_poor_agreement_is_refused_with_the_correlation():
    with pytest.raises(InputError, match=r"r = 0\.31"):
        check_alignment(np.eye(4), Agreement(0.31, 0.2))


def test_a_scan_with_the_contrast_of_a_t2_is_refused():
    template = load_template()
    inverted = np.where(template.data > 0, 1.05 * template.data.max() - template.data, 0).astype(np.float32)
    r = agreement(inverted, template.affine, np.eye(4), template)
    assert r.inside < 0
    with pytest.raises(InputError, match="T2-weighted"):
        check_alignment(np.eye(4), Agreement(0.9, r.inside))


@pytest.mark.parametrize(
    ("matrix", "found"),
    [
        (np.diag([1.0, -1.0, -1.0, 1.0]), "turned by 180 degrees"),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), "turned by 180 degrees"),
        (np.diag([2.0, 2.0, 2.0, 1.0]), r"scaled by 2\.00 to 2\.00"),
    ],
    ids=["upside down", "mirrored", "half as large"],
)
def test_a_brain_upside_down_mirrored_or_too_small_is_refused(matrix, found):
    with pytest.raises(InputError, match=found):
        check_alignment(matrix, Agreement(0.9, 0.8))
