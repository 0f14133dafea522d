import numpy as np
import pytest

from napari_pcs.anatomy.priors import read_priors, shipped_priors
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

SIGN = {"left": -1, "right": 1}


def write(folder, name, side, highest, *, sign=None):
    """A map with one blob 6 mm off the midline."""
    affine = np.array([[2.0, 0, 0, -40], [0, 2, 0, -40], [0, 0, 2, -40], [0, 0, 0, 1]])
    data = np.zeros((41, 41, 41), np.float32)
    data[20 + 3 * (sign or SIGN[side]), 30, 30] = highest
    Volume.from_array(data, affine).write(folder / f"{name}_{side}.nii.gz")


@pytest.fixture
def folder(tmp_path):
    for side, highest in (("left", 40), ("right", 30)):
        write(tmp_path, "pcs", side, highest)
        write(tmp_path, "cingulate", side, 20)
    return tmp_path


def test_a_sulcus_that_is_rarer_on_one_side_stays_so(folder):
    left, right = (read_priors(folder, side) for side in Hemisphere)
    assert left.pcs.at(np.array([[-6.0, 20, 20]])) == pytest.approx([1])
    assert right.pcs.at(np.array([[6.0, 20, 20]])) == pytest.approx([0.75])
    assert left.cingulate_posterior is None


def test_between_voxels_a_share_is_interpolated_and_outside_it_is_0(folder):
    pcs = read_priors(folder, Hemisphere.LEFT).pcs
    assert pcs.at(np.array([[-6.0, 21, 20], [-6, 20, 22], [500, 0, 0]])) == pytest.approx([0.5, 0, 0])


def test_a_map_that_is_missing_is_named(tmp_path):
    write(tmp_path, "pcs", "left", 5)
    with pytest.raises(InputError, match="no map of cingulate for the left"):
        read_priors(tmp_path, Hemisphere.LEFT)


def test_a_map_of_the_other_side_is_refused(folder):
    write(folder, "pcs", "left", 5, sign=1)
    with pytest.raises(InputError, match="other side of the brain"):
        read_priors(folder, Hemisphere.LEFT)


@pytest.mark.parametrize("side", list(Hemisphere))
def test_the_shipped_maps_follow_those_that_they_were_fitted_to(side, real_data):
    theirs, ours = read_priors(real_data / "priors", side), shipped_priors(side)
    rng = np.random.default_rng(0)
    sign = -1 if side is Hemisphere.LEFT else 1
    points = rng.uniform((0, -40, -20), (18, 70, 75), (4000, 3)) * (sign, 1, 1)
    for role in ("pcs", "cingulate", "cingulate_posterior"):
        fitted, measured = getattr(ours, role).at(points), getattr(theirs, role).at(points)
        assert np.corrcoef(fitted, measured)[0, 1] > 0.94
        assert 0 <= fitted.min() <= fitted.max() <= 1


def test_the_shipped_pcs_is_rarer_on_the_right():
    left, right = (shipped_priors(side).pcs for side in Hemisphere)
    y, z = np.meshgrid(np.arange(-20, 70, 3.0), np.arange(-10, 70, 3.0))
    at_left, at_right = (np.stack([np.full(y.size, x), y.ravel(), z.ravel()], axis=1) for x in (-6.0, 6.0))
    assert 0.4 < right.at(at_right).sum() / left.at(at_left).sum() < 0.8
