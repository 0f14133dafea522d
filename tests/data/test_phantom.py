import numpy as np
import pytest
from builders import COARSE_MM, frame_of

from napari_pcs.anatomy.length import measure_case
from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


def arrays(case):
    return case.tissue.data, case.labels[LabelRole.REFERENCE].data


def coarse(side=L, **options):
    return phantom(side, spacing_mm=1.5, **options)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_gives_the_same_phantom_each_time_and_another_seed_another(seed):
    for one, two, other in zip(*(arrays(coarse(seed=s)) for s in (seed, seed, seed + 1)), strict=True):
        np.testing.assert_array_equal(one, two)
        assert (one != other).any()


@pytest.mark.parametrize("spacing", [1.0, 1.2, 1.5])
@pytest.mark.parametrize(("length", "expected"), [(0, "absent"), (30, "small"), (60, "present")])
def test_the_reference_pcs_has_the_length_and_class_asked_for(length, expected, spacing):
    case = phantom(pcs_length_mm=length, spacing_mm=spacing)
    found = measure_case(case, arrays(case)[1])
    assert found.length_mm == pytest.approx(length, abs=0.02 * length + spacing)
    assert found.pcs_class == expected
    assert len(found.pieces) == (1 if length else 0)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_right_phantom_is_the_exact_mirror_image_of_the_left(seed):
    left, right = coarse(L, seed=seed), coarse(R, seed=seed)
    for one, two in zip(arrays(left), arrays(right), strict=True):
        np.testing.assert_array_equal(one[::-1], two)
    # In the world as well: each left voxel has its opposite at -x.
    n = left.tissue.shape[0]
    for voxel in ([0, 0, 0], [5, 40, 30]):
        mirrored = [n - 1 - voxel[0], *voxel[1:]]
        one, two = left.tissue.affine @ [*voxel, 1], right.tissue.affine @ [*mirrored, 1]
        np.testing.assert_allclose(one, two * [-1, 1, 1, 1], atol=1e-9)


@pytest.mark.parametrize(("side", "sign"), [(L, -1), (R, 1)])
def test_each_side_lies_on_its_side_of_the_world(side, sign):
    case = coarse(side)
    x = np.argwhere(case.tissue.data)[:, 0] * case.tissue.affine[0, 0] + case.tissue.affine[0, 3]
    assert (sign * x).min() > 0
    assert case.key.hemisphere is side
    assert case.labels[LabelRole.REFERENCE].provenance.hemisphere == side.value


@pytest.mark.parametrize("axis", range(3))
def test_a_flip_along_any_axis_shows(axis):
    for array in arrays(coarse()):
        used = np.argwhere(array)
        tight = array[tuple(slice(a, b + 1) for a, b in zip(used.min(axis=0), used.max(axis=0), strict=True))]
        assert np.count_nonzero(tight != np.flip(tight, axis)) > 0.05 * np.count_nonzero(tight)


def test_two_voxel_sizes_agree_in_volume(coarse_left):
    fine = phantom()
    for values, tolerance in (((1, 2), 0.005), ((2,), 0.02), ((1,), 0.06)):
        one, two = (
            np.isin(case.tissue.data, values).sum() * np.prod(case.tissue.spacing) for case in (fine, coarse_left)
        )
        assert two == pytest.approx(one, rel=tolerance)
    lengths = [frame_of(case).length_mm for case in (fine, coarse_left)]
    assert lengths[1] == pytest.approx(lengths[0], abs=2 * COARSE_MM)


def test_the_pcs_lies_dorsal_to_the_cingulate_sulcus_within_the_skeleton(coarse_right):
    tissue, labels = arrays(coarse_right)
    _, y, z = np.indices(labels.shape) * COARSE_MM
    radius = np.hypot(y - 96, z - 48)
    assert abs(radius[labels == 2] - 45).max() <= COARSE_MM / 2
    assert set(np.unique(labels)) == {0, 1, 2}
    # Sulci are fluid or grey; a label never lies in white matter.
    assert not ((labels > 0) & (tissue == 2)).any()


def test_a_longer_pcs_changes_nothing_but_the_pcs():
    short, long = (arrays(coarse(pcs_length_mm=mm)) for mm in (30, 60))
    assert ((short[1] == 2) <= (long[1] == 2)).all()
    np.testing.assert_array_equal(short[1] == 1, long[1] == 1)


@pytest.mark.parametrize("length", [-1, 61, 1000])
def test_a_pcs_that_does_not_fit_is_refused(length):
    with pytest.raises(InputError, match=f"found a PCS of {length} mm, expected 0 to 60 mm"):
        phantom(pcs_length_mm=length)
