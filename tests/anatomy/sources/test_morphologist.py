import numpy as np
import pytest

from napari_pcs.anatomy.sources import find_sources
from napari_pcs.anatomy.sources.morphologist import MorphologistSubject
from napari_pcs.anatomy.sources.skeletons import read_skeleton
from napari_pcs.case import Case, LabelRole, check_labels
from napari_pcs.commissures import FrameSource
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.stop import StopToken

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
NOT_SKELETON, SKELETON = (0, 11), (10, 30, 35, 40, 50, 60, 70, 80, 100, 110, 120)


def skeleton_like(tissue):
    """Every value of the format: 11 outside, 0 inside, the others along a plane."""
    data = np.where(tissue > 0, 0, 11).astype(np.int16)
    plane = data[:, 60]
    plane[tissue[:, 60] > 0] = np.resize(SKELETON, np.count_nonzero(tissue[:, 60]))
    return data


@pytest.fixture
def tree(save, person, tmp_path):
    """Write a subject as Morphologist does."""

    def write(subject="ada", centre="db/lab", acquisition="default_acquisition", sides=(L, R), skeleton=True):
        root = f"{centre}/{subject}/t1mri/{acquisition}"
        save(f"{root}/{subject}.nii.gz", person.brain(), person.affine)
        for side in sides:
            place = f"{root}/default_analysis/segmentation/{side}"
            tissue = person.half(side)
            save(f"{place}grey_white_{subject}.nii.gz", np.array([0, 100, 200], np.int16)[tissue], person.affine)
            if skeleton:
                save(f"{place}skeleton_{subject}.nii.gz", skeleton_like(tissue), person.affine)
        return tmp_path / root

    return write


def load(source, *sides):
    return [e for e in source.load(sides, StopToken()) if isinstance(e, Case)]


def test_a_subject_gives_both_hemispheres_with_the_t1(tree, person):
    folder = tree()
    (source,) = find_sources(folder.parents[1])
    assert (type(source), source.subject, source.session) == (MorphologistSubject, "ada", "")
    cases = load(source, L, R)
    for case, tissue in zip(cases, (person.left, person.right), strict=True):
        np.testing.assert_array_equal(case.tissue.data, tissue)
        np.testing.assert_array_equal(case.image.data, person.brain())
    assert [case.key.stem for case in cases] == ["sub-ada_hemi-L", "sub-ada_hemi-R"]


def test_its_own_skeleton_comes_along_as_the_reference(tree, person):
    (case,) = load(find_sources(tree().parents[1])[0], R)
    reference = case.labels[LabelRole.REFERENCE]
    expected = np.isin(skeleton_like(person.right), SKELETON)
    np.testing.assert_array_equal(reference.data, expected)
    assert reference.provenance.sources[0].endswith("Rskeleton_ada.nii.gz")
    assert not reference.provenance.manual


def test_commissures_come_from_the_apc_file(tree, person):
    folder = tree()
    ac, pc = np.array([0, 5, 0]), np.array([0, -20, 0])
    last = np.array(person.left.shape) - 1
    to_voxel = np.linalg.inv(person.affine)
    lines = [
        f"{name}: " + " ".join(f"{v:.0f}" for v in last - (to_voxel @ [*point, 1])[:3])
        for name, point in (("AC", ac), ("PC", pc))
    ]
    (folder / "ada.APC").write_text("\n".join(lines))
    (case,) = load(find_sources(folder.parents[1])[0], L)
    assert case.commissures.source is FrameSource.FILE
    np.testing.assert_allclose(case.commissures.ac_mm, ac, atol=1.25 / 2)
    np.testing.assert_allclose(case.commissures.pc_mm, pc, atol=1.25 / 2)


@pytest.mark.parametrize("up", [2, 3], ids=["centre", "database"])
def test_a_centre_and_a_database_give_all_their_subjects(tree, up):
    tree("ada", sides=(L,), skeleton=False)
    folder = tree("sub-bob", sides=(R,), skeleton=False)
    found = find_sources(folder.parents[up])
    assert [(s.subject, s.hemispheres) for s in found] == [("ada", (L,)), ("bob", (R,))]


def test_two_acquisitions_of_a_subject_are_two_sessions(tree):
    tree(acquisition="m_00", sides=(L,), skeleton=False)
    folder = tree(acquisition="m_12", sides=(L,), skeleton=False)
    assert [s.key(L).stem for s in find_sources(folder.parents[1])] == [
        "sub-ada_ses-m00_hemi-L",
        "sub-ada_ses-m12_hemi-L",
    ]


def test_a_t1_of_another_subject_is_refused_and_both_files_are_named(tree, save, person):
    folder = tree()
    save(folder / "ada.nii.gz", person.brain()[1:], person.affine)
    with pytest.raises(InputError, match=r"^ada.nii.gz: .*grid of Lgrey_white_ada.nii.gz.*different subjects"):
        load(find_sources(folder.parents[1])[0], L)


def test_maps_in_gis_format_are_refused_with_the_command_that_converts_them(tmp_path):
    path = tmp_path / "ada/t1mri/default_acquisition/default_analysis/segmentation/Lgrey_white_ada.ima"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(InputError, match=r"Lgrey_white_ada.ima: found .*GIS.*AimsFileConvert"):
        find_sources(tmp_path / "ada")


def test_a_skeleton_is_what_morphologist_says_it_is(save):
    data = np.array([*NOT_SKELETON, *SKELETON], np.int16).reshape(13, 1, 1)
    _, mask = read_skeleton(save("Lskeleton_ada.nii.gz", data, np.eye(4)))
    assert mask.ravel().tolist() == [0, 0, *[1] * 11]


def test_other_values_are_no_skeleton(save):
    with pytest.raises(InputError, match=r"values 0, 1, 2, expected a skeleton by Morphologist"):
        read_skeleton(save("a.nii.gz", np.arange(3, dtype=np.uint8).reshape(3, 1, 1), np.eye(4)))


def test_a_skeleton_is_not_taken_as_a_label_map():
    data = np.array([0, 11, 30, 60]).reshape(4, 1, 1)
    with pytest.raises(InputError, match=r"found a skeleton by Morphologist.*subject folder"):
        check_labels(data)
