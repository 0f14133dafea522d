import numpy as np
import pytest
from builders import affine_of

from napari_pcs.anatomy.tissue import GREY, WHITE, recognise
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
SHAPE = (6, 7, 8)


def volume_of(*values, dtype=np.int16, path=None):
    """A map in which every value occurs, at places that the seed decides."""
    data = np.random.default_rng(2).permutation(np.resize(values, np.prod(SHAPE))).reshape(SHAPE)
    return Volume.from_array(data.astype(dtype), affine_of("RAS"), path=path)


CONVENTIONS = {
    "grey/white left": ((0, 100, 200), L, 100, 200, "grey/white map"),
    "grey/white right": ((0, 100, 200), R, 100, 200, "grey/white map"),
    "ribbon left": ((0, 2, 3, 41, 42), L, 3, 2, "FreeSurfer ribbon"),
    "ribbon right": ((0, 2, 3, 41, 42), R, 42, 41, "FreeSurfer ribbon"),
    "ribbon of the right alone": ((0, 41, 42), R, 42, 41, "FreeSurfer ribbon"),
    "tissue left": ((0, 1, 2, 3), L, 2, 3, "tissue map"),
    "tissue right": ((0, 1, 2, 3), R, 2, 3, "tissue map"),
}


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
@pytest.mark.parametrize(("values", "side", "grey", "white", "name"), CONVENTIONS.values(), ids=CONVENTIONS)
def test_every_convention_is_recognised_and_named(values, side, grey, white, name, dtype):
    volume = volume_of(*values, dtype=dtype)
    tissue, found = recognise(volume, side)
    assert found.startswith(name)
    assert tissue.dtype == np.uint8
    np.testing.assert_array_equal(tissue == GREY, volume.data == grey)
    np.testing.assert_array_equal(tissue == WHITE, volume.data == white)


def test_the_two_sides_of_a_ribbon_do_not_overlap():
    volume = volume_of(0, 2, 3, 41, 42)
    left, right = (recognise(volume, side)[0] for side in (L, R))
    assert not ((left > 0) & (right > 0)).any()
    np.testing.assert_array_equal((left > 0) | (right > 0), volume.data > 0)


REFUSED = {
    "a label map or a tissue map": ((0, 1, 2), L, r"only the values \[0, 1, 2\], which may be a label map"),
    "a skeleton": ((0, 1), R, r"only the values \[0, 1\], which may be a label map"),
    "grey alone": ((0, 100), L, "the values 0, 100"),
    "white alone": ((0, 200), R, "the values 0, 200"),
    "tissue without white": ((0, 1, 2), R, "which may be a label map as well as a tissue map"),
    "tissue without grey": ((0, 1, 3), L, "the values 0, 1, 3"),
    "ribbon without the left cortex": ((0, 2, 41, 42), L, "the values 0, 2, 41, 42"),
    "the left alone of a right ribbon": ((0, 41, 42), L, "the values 0, 41, 42"),
    "a left ribbon or a tissue map, left": ((0, 2, 3), L, r"\[0, 2, 3\].*FreeSurfer ribbon.*tissue map"),
    "a left ribbon or a tissue map, right": ((0, 2, 3), R, r"\[0, 2, 3\].*FreeSurfer ribbon.*tissue map"),
    "a Morphologist skeleton": ((0, 11, 30, 60, 100), L, "the values 0, 11, 30, 60, 100"),
    "a parcellation": ((0, 2, 3, 41, 42, 1028, 2028), L, "the values 0, 2, 3, 41, 42, 1028, 2028"),
}


@pytest.mark.parametrize(("values", "side", "found"), REFUSED.values(), ids=REFUSED)
def test_what_is_ambiguous_or_incomplete_is_refused(values, side, found):
    with pytest.raises(InputError, match=rf"{found}.*expected .*\(100, 200\).*with both grey and white"):
        recognise(volume_of(*values), side)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_t1_is_refused_with_the_advice_to_segment_it(dtype, tmp_path):
    volume = volume_of(*range(300), dtype=dtype, path=tmp_path / "T1.nii.gz")
    with pytest.raises(
        InputError, match=r"^T1.nii.gz: found an image with 300 different values.*must be segmented first"
    ):
        recognise(volume, L)


def test_probabilities_are_refused():
    with pytest.raises(InputError, match=r"found an image with 3 different values \(0 to 1\)"):
        recognise(volume_of(0, 0.5, 1, dtype=np.float32), L)


def test_the_side_that_was_asked_for_is_named():
    with pytest.raises(InputError, match="The right hemisphere was asked for"):
        recognise(volume_of(0, 2, 3, 41), R)
