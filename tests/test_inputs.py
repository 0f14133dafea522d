"""What paths hold: sessions, subjects, datasets, loose maps; each once, and a reason for what holds nothing."""

import pytest
from cohorts import write_cohort

from napari_pcs.anatomy.sources.freesurfer import FreeSurferSubject
from napari_pcs.bids import CaseKey
from napari_pcs.errors import InputError
from napari_pcs.inputs import Refused, Scan, Stored, find_inputs
from napari_pcs.labels import Hemisphere
from napari_pcs.session import Session

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


@pytest.fixture
def never_read(monkeypatch):
    monkeypatch.setattr("napari_pcs.volume.Volume.read", lambda *_args, **_options: pytest.fail("read"))


@pytest.fixture(scope="module")
def loose(tmp_path_factory):
    """A folder of maps that is no dataset, with other images among them."""
    folder = write_cohort(tmp_path_factory.mktemp("loose"), 2, "LR")
    for name in ("sub-00_hemi-L_T1w.nii.gz", "sub-00_hemi-L_mask.nii.gz", "notes.txt"):
        (folder / name).write_bytes(b"")
    return folder


def names(inputs):
    return [one.name for one in inputs]


def test_of_a_folder_of_maps_each_hemisphere_is_taken_and_nothing_else(loose, never_read):
    found = find_inputs([loose])
    assert names(found) == [f"sub-0{n}_hemi-{side}_gw.nii.gz" for n in range(2) for side in "LR"]
    assert all(isinstance(one, Scan) and one.source is None for one in found)


def test_one_side_may_be_chosen(loose, never_read):
    assert names(find_inputs([loose], R)) == ["sub-00_hemi-R_gw.nii.gz", "sub-01_hemi-R_gw.nii.gz"]


def test_what_is_given_twice_is_taken_once_in_the_order_given(loose, never_read, tmp_path):
    second = loose / "sub-01_hemi-L_gw.nii.gz"
    (tmp_path / "link.nii.gz").symlink_to(second)
    found = find_inputs([second, loose, tmp_path / "link.nii.gz", loose / "." / second.name])
    assert names(found) == [second.name, *(f"sub-{s}_gw.nii.gz" for s in ("00_hemi-L", "00_hemi-R", "01_hemi-R"))]


def test_a_session_gives_its_cases(tmp_path, small_case):
    session = Session.create(tmp_path / "study")
    for subject, side in (("02", L), ("01", R), ("01", L)):
        session.add(small_case(subject, hemisphere=side))
    found = find_inputs([session.root])
    assert [one.key for one in found] == session.keys()
    assert all(isinstance(one, Stored) for one in found)
    assert [one.key for one in find_inputs([session.root], R)] == [CaseKey("01", "", R)]


def test_a_folder_of_subjects_gives_each_of_them(tmp_path, never_read):
    for name in ("ada", "bob", "fsaverage"):
        (tmp_path / name / "mri").mkdir(parents=True)
        (tmp_path / name / "mri" / "ribbon.mgz").write_bytes(b"")
    found = find_inputs([tmp_path])
    assert names(found) == ["ada", "bob"]
    assert all(isinstance(one.source, FreeSurferSubject) for one in found)
    assert found[0].sources()[0].hemispheres == (L, R)
    assert find_inputs([tmp_path], L)[0].sources()[0].hemispheres == (L,)


def test_a_path_of_which_nothing_can_be_taken_stops_no_other(tmp_path, loose):
    (tmp_path / "empty").mkdir()
    Session.create(tmp_path / "study")
    found = find_inputs([tmp_path / "empty", loose, tmp_path / "study"])
    assert [type(one) for one in found] == [Refused, Scan, Scan, Scan, Scan, Refused]
    assert isinstance(found[0].error, InputError)
    assert "an empty folder" in str(found[0].error)
    assert "a session without cases" in str(found[-1].error)


def test_a_file_is_recognised_only_when_it_is_asked_for(tmp_path):
    (one,) = find_inputs([tmp_path / "none.nii"])
    with pytest.raises(InputError, match="found no such file"):
        one.sources()


def test_a_map_is_recognised_by_its_content(loose):
    (source,) = find_inputs([loose / "sub-00_hemi-R_gw.nii.gz"])[0].sources()
    assert (source.kind, source.hemispheres) == ("grey/white map (100, 200)", (R,))
