import numpy as np
import pytest
from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

from napari_pcs.anatomy.sources import find_sources
from napari_pcs.anatomy.sources.probability import ProbabilityPair
from napari_pcs.case import Case
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.stop import StopToken

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
NAMES = {
    "fMRIPrep": ("sub-ada_hemi-L_label-GM_probseg.nii.gz", "sub-ada_hemi-L_label-WM_probseg.nii.gz"),
    "SPM": ("c1sub-ada_hemi-L_T1w.nii.gz", "c2sub-ada_hemi-L_T1w.nii.gz"),
    "FAST": ("sub-ada_hemi-L_pve_1.nii.gz", "sub-ada_hemi-L_pve_2.nii.gz"),
    "plain": ("sub-ada_hemi-L_GM.nii.gz", "sub-ada_hemi-L_WM.nii.gz"),
}


def probabilities(tissue):
    grey, white = (np.where(tissue == value, 0.9, 0.05 * (tissue > 0)).astype(np.float32) for value in (1, 2))
    return grey, white


def load(source, *sides):
    return [e for e in source.load(sides, StopToken()) if isinstance(e, Case)]


@pytest.mark.parametrize("given", [0, 1])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_either_file_of_a_pair_leads_to_both(save, person, names, given):
    paths = [save(n, p, person.affine) for n, p in zip(names, probabilities(person.left), strict=True)]
    (source,) = find_sources(paths[given])
    assert type(source) is ProbabilityPair
    assert (source.path, source.white) == tuple(paths)
    assert source.key(L).stem == "sub-ada_hemi-L"
    (case,) = load(source, L)
    np.testing.assert_array_equal(case.tissue.data, person.left)


def test_the_likelier_tissue_wins_where_there_is_more_tissue_than_not(save, tmp_path):
    grey = np.array([0.0, 0.3, 0.26, 0.2, 0.6, 0.45], np.float32).reshape(6, 1, 1) * np.ones((6, 4, 4), np.float32)
    white = np.array([0.0, 0.1, 0.3, 0.7, 0.4, 0.45], np.float32).reshape(6, 1, 1) * np.ones((6, 4, 4), np.float32)
    save("a_hemi-L_GM.nii.gz", grey, np.eye(4))
    save("a_hemi-L_WM.nii.gz", white, np.eye(4))
    (case,) = load(find_sources(tmp_path / "a_hemi-L_GM.nii.gz")[0], L)
    assert case.tissue.data[:, 0, 0].tolist() == [0, 0, 2, 2, 1, 1]


def test_a_map_without_its_partner_is_refused_by_the_partners_name(save, person):
    path = save("sub-ada_hemi-L_label-GM_probseg.nii.gz", probabilities(person.left)[0], person.affine)
    with pytest.raises(InputError, match=r"one map of probabilities alone.*sub-ada_hemi-L_label-WM_probseg.nii.gz"):
        find_sources(path)


def test_maps_that_add_up_to_more_than_one_are_refused(save, person):
    grey, white = probabilities(person.left)
    path = save("sub-ada_hemi-L_GM.nii.gz", grey, person.affine)
    save("sub-ada_hemi-L_WM.nii.gz", np.roll(white, 9, axis=1), person.affine)
    (source,) = find_sources(path)
    with pytest.raises(InputError, match=r"GM.nii.gz: found .*add up to 1\.80.*WM.nii.gz may belong to another"):
        load(source, L)


def test_maps_on_two_grids_are_refused_and_both_named(save, person):
    grey, white = probabilities(person.left)
    path = save("sub-ada_hemi-L_GM.nii.gz", grey, person.affine)
    save("sub-ada_hemi-L_WM.nii.gz", white[:-3], person.affine)
    with pytest.raises(InputError, match=r"WM.nii.gz: found .*expected the grid of sub-ada_hemi-L_GM.nii.gz"):
        load(find_sources(path)[0], L)


def test_the_pairs_of_a_folder_are_found_in_native_space_only(save, person, tmp_path):
    for name in ("sub-ada_hemi-L", "sub-bob_hemi-L", "sub-bob_space-MNI_hemi-L"):
        for label, data in zip(("GM", "WM"), probabilities(person.left), strict=True):
            save(f"out/{name[:7]}/anat/{name}_label-{label}_probseg.nii.gz", data, person.affine)
    assert [s.subject for s in find_sources(tmp_path / "out")] == ["ada", "bob"]


CEREBRUM = [(30, 20, 40), (25, -60, 50), (45, -20, -25), (20, -92, 5), (10, 50, 10), (8, -70, 20)]
ELSEWHERE = [(20, -60, -45), (35, -65, -40), (15, -70, -30), (3, -25, -35)]
"""MNI mm on the right: cortex and white matter all over; cerebellum and brainstem."""


@pytest.fixture(scope="module")
def template_halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    images = [load(resolution=2) for load in (load_mni152_gm_template, load_mni152_wm_template)]
    for name, image in zip(("GM", "WM"), images, strict=True):
        image.to_filename(folder / f"sub-mni_{name}.nii.gz")
    (source,) = find_sources(folder / "sub-mni_WM.nii.gz")
    assert source.hemispheres == (L, R)
    return load(source, L, R)


def test_a_whole_brain_is_parted_into_hemispheres(template_halves):
    left, right = template_halves
    assert (left.key.hemisphere, right.key.hemisphere) == (L, R)
    assert not ((left.tissue.data > 0) & (right.tissue.data > 0)).any()
    sizes = [np.count_nonzero(case.tissue.data) for case in template_halves]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)  # the template is symmetric


@pytest.mark.parametrize(("points", "inside"), [(CEREBRUM, True), (ELSEWHERE, False)], ids=["cerebrum", "hindbrain"])
def test_the_cerebrum_stays_and_the_hindbrain_goes(template_halves, points, inside):
    for sign, case in zip((-1, 1), template_halves, strict=True):
        to_voxel = np.linalg.inv(case.tissue.affine)
        for x, y, z in points:
            i, j, k = np.round((to_voxel @ [sign * x, y, z, 1])[:3]).astype(int)
            around = case.tissue.data[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3] > 0
            assert around.any() == inside, (x, y, z)
