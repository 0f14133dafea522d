import shutil

import numpy as np
import pytest

from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.registration import register
from napari_pcs.anatomy.sources import find_sources
from napari_pcs.anatomy.sources.freesurfer import FastSurferSubject, FreeSurferSubject
from napari_pcs.anatomy.sources.talairach import MNI305_TO_MNI152, read_talairach
from napari_pcs.case import Case
from napari_pcs.commissures import AC_MNI, FrameSource
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.stop import StopToken

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


def xfm(matrix):
    rows = "\n".join(" ".join(f"{v:.6f}" for v in row) for row in matrix[:3])
    return f"MNI Transform File\n% avi2talxfm\n\nTransform_Type = Linear;\nLinear_Transform = \n{rows};\n"


def moved(x, y, z):
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


@pytest.fixture
def subject(save, person, tmp_path):
    """Write a subject's folder: ribbon or aseg, brain and transform."""

    def write(name="ada", segmentation="ribbon.mgz", data=None, brain=None, transform=None):
        data = person.ribbon() if data is None else data
        save(f"subjects/{name}/mri/{segmentation}", data.astype(np.int32), person.affine)
        if brain is not False:
            save(f"subjects/{name}/mri/brain.mgz", person.brain() if brain is None else brain, person.affine)
        if transform is not None:
            path = tmp_path / "subjects" / name / "mri/transforms/talairach.xfm"
            path.parent.mkdir()
            path.write_text(transform)
        return tmp_path / "subjects" / name

    return write


def load(source, *sides):
    return [e for e in source.load(sides, StopToken()) if isinstance(e, Case)]


def test_a_subject_gives_both_hemispheres_with_the_brain(subject, person):
    folder = subject()
    (source,) = find_sources(folder)
    assert (type(source), source.key(R).stem) == (FreeSurferSubject, "sub-ada_hemi-R")
    cases = load(source, L, R)
    for case, tissue in zip(cases, (person.left, person.right), strict=True):
        np.testing.assert_array_equal(case.tissue.data, tissue)
        np.testing.assert_array_equal(case.image.data, person.brain())
    assert find_sources(folder / "mri") == (source,)


def test_a_folder_of_subjects_leaves_out_the_average(subject):
    subject("bob")
    subject("fsaverage")
    folder = subject("sub-ada_ses-2")
    assert [s.key(L).stem for s in find_sources(folder.parent)] == ["sub-bob_hemi-L", "sub-ada_ses-2_hemi-L"]


def test_the_transform_leads_from_the_scan_to_mni305_and_on_to_mni152(tmp_path):
    path = tmp_path / "talairach.xfm"
    to_305 = moved(3, -7, 11) @ np.diag([1.1, 1.05, 1.2, 1])
    path.write_text(xfm(to_305))
    found = read_talairach(path)
    back = MNI305_TO_MNI152 @ to_305 @ [*found.ac_mm, 1]
    np.testing.assert_allclose(back[:3], AC_MNI, atol=1e-4)
    assert (found.source, found.detail) == (FrameSource.FILE, "talairach.xfm")


def test_the_commissures_of_a_subject_are_those_of_its_transform(subject):
    # The phantom's AC is at the origin; the transform brings it to where MNI305 has it.
    ac_305 = (np.linalg.inv(MNI305_TO_MNI152) @ [*AC_MNI, 1])[:3]
    cases = load(find_sources(subject(transform=xfm(moved(*ac_305))))[0], L, R)
    for case in cases:
        np.testing.assert_allclose(case.commissures.ac_mm, (0, 0, 0), atol=1e-4)


def test_a_transform_that_misses_the_brain_is_not_used_and_that_is_said(subject):
    (source,) = find_sources(subject(transform=xfm(moved(0, 90, 0))))
    events = list(source.load((L,), StopToken()))
    assert any("talairach.xfm is not used" in e.sentence for e in events if isinstance(e, Step))
    assert events[-1].commissures is None


@pytest.mark.parametrize("text", ["", "Linear_Transform = 1 0 0;", "Linear_Transform = " + "0 " * 12 + ";"])
def test_a_damaged_transform_is_refused(subject, text):
    with pytest.raises(InputError, match=r"^talairach.xfm: found "):
        load(find_sources(subject(transform=text))[0], L)


def test_a_brain_of_another_shape_is_refused_and_both_files_are_named(subject, person):
    folder = subject(brain=person.brain()[:, 2:])
    with pytest.raises(InputError, match=r"^brain.mgz: .*grid of ribbon.mgz.*different subjects"):
        load(find_sources(folder)[0], L)


def test_a_brain_of_another_person_on_the_same_grid_is_refused(subject, person):
    folder = subject(brain=np.roll(person.brain(), 30, axis=1))
    with pytest.raises(InputError, match=r"^brain.mgz: found an image that is 0 in .*ribbon.mgz"):
        load(find_sources(folder)[0], L)


def test_exchanged_sides_are_refused(subject, person):
    ribbon = person.ribbon()
    swapped = np.select([ribbon == 2, ribbon == 3, ribbon == 41, ribbon == 42], [41, 42, 2, 3], 0)
    with pytest.raises(InputError, match=r"^ribbon.mgz: .*Left and right are exchanged"):
        load(find_sources(subject(data=swapped))[0], L)


def test_an_aseg_without_ribbon_counts_the_deep_nuclei_as_white(subject, person):
    aseg = person.ribbon().astype(np.int32)
    deep = np.zeros(aseg.shape, bool)
    deep[20:28, 60:70, 30:40] = True
    aseg[deep & (person.left == 2)] = 12
    aseg[deep[::-1] & (person.right == 2)] = 51
    aseg[5:9, 5:9, :5] = 8  # cerebellum
    (source,) = find_sources(subject(segmentation="aseg.mgz", data=aseg))
    assert type(source) is FastSurferSubject
    left, right = load(source, L, R)
    np.testing.assert_array_equal(left.tissue.data, person.left)
    np.testing.assert_array_equal(right.tissue.data, person.right)


def test_the_corpus_callosum_goes_to_the_nearer_side(subject, person):
    aseg = person.ribbon().astype(np.int32)
    middle = aseg.shape[0] // 2
    assert not aseg[middle].any()
    aseg[middle - 1 : middle + 2, 60:64, 50:53] = 253
    left, right = load(find_sources(subject(segmentation="aseg.mgz", data=aseg))[0], L, R)
    assert (left.tissue.data[middle - 1, 60:64, 50:53] == 2).all()
    assert (right.tissue.data[middle + 1, 60:64, 50:53] == 2).all()
    assert not ((left.tissue.data > 0) & (right.tissue.data > 0)).any()


def test_an_aseg_without_a_cortex_is_refused(subject, person):
    aseg = np.where(person.ribbon() == 42, 0, person.ribbon())
    with pytest.raises(InputError, match=r"^aseg.mgz: found no label 42"):
        load(find_sources(subject(segmentation="aseg.mgz", data=aseg))[0], L)


@pytest.fixture(scope="module")
def bert(real_data):
    return real_data / "freesurfer" / "bert"


def test_transform_and_registration_agree_on_a_real_subject(bert):
    (case,) = load(find_sources(bert)[0], L)
    frame = estimate_frame(case.tissue.data > 0, case.tissue.spacing, L)
    registered = register(case.tissue, frame)
    apart = np.linalg.norm(np.subtract(registered.ac_mm, case.commissures.ac_mm))
    assert apart < 5


def test_aseg_alone_gives_almost_the_tissue_of_the_ribbon(bert, tmp_path):
    (tmp_path / "bert/mri").mkdir(parents=True)
    for name in ("aseg.mgz", "norm.mgz"):
        shutil.copy(bert / "mri" / name, tmp_path / "bert/mri" / name)
    by_ribbon = load(find_sources(bert)[0], L, R)
    by_aseg = load(find_sources(tmp_path / "bert")[0], L, R)
    for one, two in zip(by_ribbon, by_aseg, strict=True):
        for value in (1, 2):
            a, b = one.tissue.data == value, two.tissue.data == value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.97
