import pytest

from napari_pcs.bids import CaseKey, case_file, parse_key
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sub-01_hemi-L_T1w.nii.gz", ("01", "", L)),
        ("sub-01_ses-2_hemi-R_space-orig_desc-gw_dseg.nii.gz", ("01", "2", R)),
        ("/data/sub-99/anat/sub-A7_ses-post_hemi-L_dseg.nii", ("A7", "post", L)),
        ("hemi-R_sub-03_bold.nii", ("03", "", R)),
        ("Lgrey_white_xyz.nii.gz", ("xyz", "", L)),
        ("Rgrey_white_sub_07.ima", ("sub07", "", R)),
        ("Rskeleton_ammon.nii.gz", ("ammon", "", R)),
    ],
)
def test_the_key_is_read_from_bids_and_morphologist_names(name, key):
    assert parse_key(name) == CaseKey(*key)


@pytest.mark.parametrize("side", [L, R])
@pytest.mark.parametrize(
    ("name", "subject"),
    [("scan.nii.gz", "scan"), ("my_scan-2.mgz", "myscan2"), ("sub-04_T1w.nii", "04"), ("sub-04_hemi-x.nii", "04")],
)
def test_a_name_without_a_side_takes_the_side_that_is_given(name, subject, side):
    assert parse_key(name, side) == CaseKey(subject, "", side)


@pytest.mark.parametrize("name", ["scan.nii.gz", "sub-01_T1w.nii.gz", "Left_brain.nii", "sub-01_hemi-both.nii"])
def test_the_side_is_never_guessed(name):
    with pytest.raises(InputError, match=rf"^{name}: found a name .* which hemisphere.*expected hemi-L or hemi-R"):
        parse_key(name)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("sub-01_hemi-L_T1w.nii.gz", R), ("Rgrey_white_01.nii.gz", L), ("Lskeleton_01.nii.gz", R)],
)
def test_a_side_that_contradicts_the_name_is_refused(name, chosen):
    with pytest.raises(InputError, match=rf"^{name}: found hemisphere [LR] in the name, expected {chosen.value}"):
        parse_key(name, chosen)


def test_a_side_that_agrees_with_the_name_is_accepted():
    assert parse_key("Rgrey_white_01.nii.gz", R) == parse_key("Rgrey_white_01.nii.gz")


@pytest.mark.parametrize("key", [CaseKey("01", "", L), CaseKey("01", "2", R), CaseKey("phantom60mm", "post", L)])
@pytest.mark.parametrize(
    ("description", "suffix", "segmentation"),
    [("gw", "dseg", False), ("skel", "mask", False), ("pred", "probseg", True), ("corr", "dseg", True)],
)
def test_every_file_name_of_a_case_gives_its_key_back(key, description, suffix, segmentation):
    assert parse_key(case_file(key, description, suffix, segmentation=segmentation)) == key


@pytest.mark.parametrize(
    ("key", "segmentation", "expected"),
    [
        (("01", "", L), True, "sub-01/anat/sub-01_hemi-L_space-orig_seg-sulci_desc-pred_dseg.nii.gz"),
        (("01", "2", R), False, "sub-01/ses-2/anat/sub-01_ses-2_hemi-R_space-orig_desc-pred_dseg.nii.gz"),
    ],
)
def test_files_lie_where_the_design_says(key, segmentation, expected):
    assert case_file(CaseKey(*key), "pred", "dseg", segmentation=segmentation).as_posix() == expected


def test_keys_sort_by_person_then_session_then_side_and_serve_as_dictionary_keys():
    keys = [CaseKey("02", "", L), CaseKey("01", "2", L), CaseKey("01", "1", R), CaseKey("01", "1", L)]
    assert sorted(keys) == [keys[3], keys[2], keys[1], keys[0]]
    assert {key: key.stem for key in keys}[CaseKey("01", "1", R)] == "sub-01_ses-1_hemi-R"
