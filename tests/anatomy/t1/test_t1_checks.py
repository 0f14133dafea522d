import numpy as np
import pytest

from napari_pcs.anatomy.t1.checks import check_extent, check_scan, foreground
from napari_pcs.errors import InputError


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(100, 20, (40, 40, 40)).astype(np.float32)


def test_a_scan_with_many_values_and_small_voxels_passes(noise):
    check_scan(noise, np.diag([1.0, 1.0, 3.0, 1.0]))


def test_thick_slices_are_refused_with_their_size(noise):
    with pytest.raises(InputError, match="1 x 1 x 5 mm"):
        check_scan(noise, np.diag([1.0, 1.0, 5.0, 1.0]))


@pytest.mark.parametrize("data", [np.full((40, 40, 40), 7.0), np.arange(64000).reshape(40, 40, 40) % 4])
def test_a_constant_and_a_tissue_map_are_refused(data):
    with pytest.raises(InputError, match="different values"):
        check_scan(data, np.eye(4))


def test_nan_is_refused(noise):
    noise[3, 4, 5] = np.nan
    with pytest.raises(InputError, match="NaN"):
        check_scan(noise, np.eye(4))


def test_foreground_leaves_out_air_whatever_the_unit_of_brightness(noise):
    noise[:10] = 3
    for unit in (1.0, 1e-3, 1e4):
        assert foreground(noise * np.float32(unit)).mean() == pytest.approx(0.75, abs=0.01)


def test_half_a_brain_is_refused_by_its_volume():
    content = np.zeros((100, 100, 100), dtype=bool)
    content[20:60, 10:90, 10:90] = True  # 256 ml
    with pytest.raises(InputError, match=r"0\.26 litres"):
        check_extent(content, np.eye(4))


def test_a_slab_is_refused_by_its_height():
    content = np.zeros((150, 190, 80), dtype=bool)
    content[5:145, 5:180, 20:60] = True
    with pytest.raises(InputError, match="140 x 175 x 40 mm"):
        check_extent(content, np.eye(4))
    check_extent(content, np.diag([1.0, 1.0, 2.5, 1.0]))
