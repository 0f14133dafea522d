import numpy as np
import pytest

from napari_pcs.anatomy.sources import find_sources
from napari_pcs.anatomy.sources.tissue_map import FluidGreyWhiteMap, GreyWhiteMap, RibbonMap
from napari_pcs.case import Case
from napari_pcs.commissures import FrameSource
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.stop import StopToken

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
CODINGS = {
    "100/200": (GreyWhiteMap, np.array([0, 100, 200], np.uint8)),
    "0/1/2/3": (FluidGreyWhiteMap, np.array([1, 2, 3], np.uint8)),
}


def load(source, *sides):
    return [e for e in source.load(sides, StopToken()) if isinstance(e, Case)]


@pytest.mark.parametrize("side", [L, R])
@pytest.mark.parametrize(("kind", "values"), CODINGS.values(), ids=CODINGS)
def test_one_hemisphere_is_recognised_by_values_and_read(save, person, kind, values, side):
    tissue = person.half(side)
    path = save(f"sub-ada_ses-2_hemi-{side}_dseg.nii.gz", values[tissue], person.affine)
    (source,) = find_sources(path)
    assert type(source) is kind
    assert (source.subject, source.session, source.hemispheres) == ("ada", "2", (side,))
    (case,) = load(source, side)
    np.testing.assert_array_equal(case.tissue.data, tissue)
    assert case.tissue.path == path


def test_a_side_that_the_name_does_not_say_must_be_chosen(save, person):
    path = save("someone.nii.gz", np.array([0, 100, 200], np.uint8)[person.right], person.affine)
    with pytest.raises(InputError, match=r"someone.nii.gz: found a name that does not say which hemisphere"):
        find_sources(path)
    (source,) = find_sources(path, R)
    assert source.hemispheres == (R,)
    with pytest.raises(InputError, match="exchanged"):
        list(find_sources(path, L)[0].read(None, StopToken()))


def test_a_ribbon_gives_both_hemispheres_without_overlap(save, person):
    (source,) = find_sources(save("ada_ribbon.mgz", person.ribbon(), person.affine))
    assert type(source) is RibbonMap
    assert source.hemispheres == (L, R)
    left, right = load(source, L, R)
    np.testing.assert_array_equal(left.tissue.data, person.left)
    np.testing.assert_array_equal(right.tissue.data, person.right)


def test_a_ribbon_whose_sides_are_exchanged_is_refused(save, person):
    (source,) = find_sources(save("ada_ribbon.mgz", person.ribbon()[::-1].copy(), person.affine))
    with pytest.raises(InputError, match=r"left hemisphere's labels to the right.*exchanged"):
        load(source, L)


REFUSED = {
    "grey alone": ([0, 100, 100], "the values 0, 100"),
    "white alone": ([0, 0, 200], "the values 0, 200"),
    "a label map": ([0, 1, 2], "may be a label map"),
    "a Morphologist skeleton": ([11, 0, 60], "a skeleton by Morphologist"),
}


@pytest.mark.parametrize(("values", "found"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_tissue_map_is_named(save, person, values, found):
    path = save("sub-ada_hemi-L.nii.gz", np.array(values, np.uint8)[person.left], person.affine)
    with pytest.raises(InputError, match=rf"sub-ada_hemi-L.nii.gz: found .*{found}"):
        find_sources(path)


def test_commissures_come_from_the_sidecar_in_voxels_of_the_stored_file(save, person, landmarks):
    # Stored as LAS: the first axis runs to the left.
    stored = np.array([0, 100, 200], np.uint8)[person.left][::-1].copy()
    affine = person.affine.copy()
    affine[0, 3] += affine[0, 0] * (stored.shape[0] - 1)
    affine[0, 0] *= -1
    path = save("sub-ada_hemi-L_gw.nii.gz", stored, affine)
    ac, pc = (50, 70, 50), (50, 50, 50)
    landmarks(path, ac, pc)
    (case,) = load(find_sources(path)[0], L)
    assert case.commissures.source is FrameSource.FILE
    np.testing.assert_allclose(case.commissures.ac_mm, (affine @ [*ac, 1])[:3], atol=1e-6)
    np.testing.assert_allclose(case.commissures.pc_mm, (affine @ [*pc, 1])[:3], atol=1e-6)
    assert case.commissures.right[0] == pytest.approx(1)


@pytest.mark.parametrize(("code", "ac"), [(4, (0, 2.5, -4.5)), (3, (0, 0, 0)), (1, None)])
def test_a_header_in_standard_space_knows_the_commissures(save, person, code, ac):
    path = save("sub-ada_hemi-L.nii.gz", np.array([0, 100, 200], np.uint8)[person.left], person.affine, code)
    (case,) = load(find_sources(path)[0], L)
    if ac is None:
        assert case.commissures is None
    else:
        np.testing.assert_allclose(case.commissures.ac_mm, ac, atol=1e-6)


def test_an_aseg_alone_is_refused_with_the_advice_to_give_the_folder(save, person):
    aseg = person.ribbon()
    aseg[:3, :3, :3] = 16
    with pytest.raises(InputError, match=r"^aseg.mgz: found 6 labels.*FreeSurfer's aseg: give the subject's folder"):
        find_sources(save("aseg.mgz", aseg, person.affine))
