import json
import logging
import os
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import nibabel as nib
import numpy as np
import pytest
from builders import ORIENTATIONS
from nibabel.orientations import axcodes2ornt, ornt_transform

from napari_pcs.anatomy.sources.tissue_map import case_of
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case
from napari_pcs.data.cache import HemisphereCache, Planes
from napari_pcs.data.hemispheres import open_hemispheres
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.predict import network_input
from napari_pcs.session import Session
from napari_pcs.volume import Volume

L, R = Hemisphere
SIZE = (32, 40, 24)


@pytest.fixture(scope="module")
def fine():
    return {side: phantom(side) for side in Hemisphere}


@pytest.fixture
def put(tmp_path):
    """Write the tissue map of a case as 100 grey, 200 white in an orientation."""

    def write(case, name, orientation="RAS"):
        path = tmp_path / "cohort" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(case.tissue.data * np.uint8(100), case.tissue.affine)
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
        nib.save(image.as_reoriented(turn), path)
        return path

    return write


@pytest.fixture
def cohort(tmp_path):
    return tmp_path / "cohort"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def place_of(whole, patch):
    """First voxel of the patch in the whole, from the position of its corner, each axis by itself."""
    lines = whole[1, :, 0, 0], whole[2, 0, :, 0], whole[3, 0, 0, :]
    return [
        int(np.flatnonzero(line == corner)[0]) for line, corner in zip(lines, patch.position[:, 0, 0, 0], strict=True)
    ]


@pytest.mark.parametrize("orientation", [o for o in ORIENTATIONS if o != "oblique"])
@pytest.mark.parametrize("side", Hemisphere)
def test_a_patch_equals_the_crop_of_the_whole_network_input_in_any_orientation(
    put, cohort, cache, fine, side, orientation
):
    put(fine[side], f"sub-01_hemi-{side}_gw.nii.gz", orientation)
    whole = network_input(fine[side], position=True).image
    source = open_hemispheres(cohort, cache)
    for seed in range(4):
        patch = source.draw(0, SIZE, np.random.default_rng(seed))
        where = tuple(slice(f, f + n) for f, n in zip(place_of(whole, patch), SIZE, strict=True))
        assert patch.image.dtype == patch.position.dtype == np.float32
        assert np.array_equal(patch.image, whole[(slice(0, 1), *where)])
        assert np.array_equal(patch.position, whole[(slice(1, 4), *where)])


def test_an_interpolated_patch_differs_by_no_more_than_half_a_stored_step(put, cohort, cache, coarse_left):
    put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    whole = network_input(coarse_left, position=True).image
    patch = open_hemispheres(cohort, cache).draw(0, SIZE, np.random.default_rng(0))
    where = tuple(slice(f, f + n) for f, n in zip(place_of(whole, patch), SIZE, strict=True))
    assert np.abs(patch.image - whole[(slice(0, 1), *where)]).max() <= 0.5 / 200 + 1e-6


def test_a_right_hemisphere_is_drawn_as_the_mirrored_left_one(put, cohort, cache, fine):
    for side in Hemisphere:
        put(fine[side], f"sub-01_hemi-{side}_gw.nii.gz")
    source = open_hemispheres(cohort, cache)
    left, right = (source.draw(i, SIZE, np.random.default_rng(5)) for i in range(2))
    assert (left.source, right.source) == ("sub-01_hemi-L", "sub-01_hemi-R")
    assert np.array_equal(left.image, right.image)
    assert np.array_equal(left.position, right.position)


def test_the_same_generator_draws_the_same_patch_before_and_after_it_is_stored(put, cohort, cache, coarse_left):
    put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    source = open_hemispheres(cohort, cache)
    first, second, third = (source.draw(0, SIZE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, second.image)
    assert not np.array_equal(first.image, third.image)


def test_every_patch_holds_tissue_and_its_centre_reaches_all_over_the_hemisphere(put, cohort, cache, coarse_left):
    put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    source = open_hemispheres(cohort, cache)
    patches = [source.draw(0, (16, 16, 16), np.random.default_rng(seed)) for seed in range(200)]
    assert all(patch.image.any() for patch in patches)
    whole = network_input(coarse_left, position=True).image
    reached = np.ptp([patch.position[:, 8, 8, 8] for patch in patches], axis=0)
    assert (reached > 0.75 * np.ptp(whole[1:].reshape(3, -1), axis=1)).all()


def test_a_hemisphere_smaller_than_the_patch_is_padded_and_its_position_goes_on(put, cohort, cache, coarse_left):
    put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    whole = network_input(coarse_left, position=True).image
    size = tuple(n + 20 for n in whole.shape[1:])
    patch = open_hemispheres(cohort, cache).draw(0, size, np.random.default_rng(3))
    assert patch.image.shape == (1, *size)
    assert patch.image.sum() == pytest.approx(whole[0].sum(), rel=1e-3)
    steps = np.diff(patch.position[1, 0, :, 0])
    assert steps == pytest.approx(np.diff(whole[2, 0, :, 0])[0], rel=1e-3)


def counting(monkeypatch):
    """Count how often a hemisphere is read from its source."""
    from napari_pcs.data import hemispheres

    calls, read = [], hemispheres._tissue
    monkeypatch.setattr(hemispheres, "_tissue", lambda one: calls.append(one.name) or read(one))
    return calls


def test_a_hemisphere_is_read_once_and_again_when_its_file_changes(
    put, cohort, cache, coarse_left, coarse_right, monkeypatch
):
    path = put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    calls = counting(monkeypatch)
    before = [open_hemispheres(cohort, cache).draw(0, SIZE, np.random.default_rng(0)) for _ in range(3)]
    assert len(calls) == 1
    thinned = np.where(np.arange(coarse_left.tissue.shape[2]) % 2, coarse_left.tissue.data, coarse_left.tissue.data > 0)
    tissue = coarse_left.tissue.with_data(thinned.astype(np.uint8))
    bare = Case(coarse_left.key, tissue, tissue)
    put(bare, path.name)
    os.utime(path, (1, 1))
    after = open_hemispheres(cohort, cache).draw(0, SIZE, np.random.default_rng(0))
    assert len(calls) == 2
    assert not np.array_equal(before[0].image, after.image)


@pytest.mark.parametrize("damage", ["short voxels", "no voxels", "short description", "another shape", "not numpy"])
def test_a_damaged_entry_is_made_anew(put, cohort, cache, coarse_left, monkeypatch, damage):
    put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    source = open_hemispheres(cohort, cache)
    sound = source.draw(0, SIZE, np.random.default_rng(0))
    voxels, description = next(cache.glob("*.npy")), next(cache.glob("*.json"))
    content, described = voxels.read_bytes(), description.read_text()
    match damage:
        case "short voxels":
            voxels.write_bytes(content[:-1000])
        case "no voxels":
            voxels.unlink()
        case "short description":
            description.write_text(described[:-40])
        case "another shape":
            description.write_text(json.dumps({**json.loads(described), "size": [9, 9, 9]}))
        case "not numpy":
            voxels.write_bytes(b"x" * len(content))
    calls = counting(monkeypatch)
    again = source.draw(0, SIZE, np.random.default_rng(0))
    assert calls == ["sub-01_hemi-L"]
    assert np.array_equal(sound.image, again.image)
    assert (voxels.read_bytes(), description.read_text()) == (content, described)


def test_a_cache_that_cannot_be_written_is_done_without_and_named_once(put, cohort, tmp_path, coarse_left, caplog):
    put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        source = open_hemispheres(cohort, blocked / "cache")
        first, second = (source.draw(0, SIZE, np.random.default_rng(0)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(
        first.image, open_hemispheres(cohort, tmp_path / "c").draw(0, SIZE, np.random.default_rng(0)).image
    )
    assert len(caplog.records) == 1
    assert "slow" in caplog.text


def drawn(source, seed):
    return source.draw(0, SIZE, np.random.default_rng(seed))


def test_processes_that_share_a_cache_draw_the_same_and_leave_one_sound_entry(put, cohort, cache, coarse_left):
    put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    source = open_hemispheres(cohort, cache)
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        patches = list(pool.map(drawn, [source] * 6, [0, 1, 2] * 2))
    for seed, patch in enumerate(patches):
        assert np.array_equal(patch.image, drawn(source, seed % 3).image)
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"]


def test_an_entry_that_vanishes_while_it_is_read_is_an_input_error(put, cohort, cache, coarse_left, monkeypatch):
    put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    source = open_hemispheres(cohort, cache)
    drawn(source, 0)
    find = Planes.of

    def found_then_removed(path, size):
        planes = find(path, size)
        path.unlink()
        return planes

    monkeypatch.setattr(Planes, "of", found_then_removed)
    with pytest.raises(InputError, match="removed or cut short"):
        drawn(source, 0)


def test_a_folder_is_listed_without_reading_voxels(cohort, cache, monkeypatch):
    cohort.mkdir()
    for n in range(300):
        (cohort / f"sub-{n:03}_hemi-{'LR'[n % 2]}_gw.nii.gz").touch()
    source = open_hemispheres(cohort, cache)
    assert len(source.names) == 300
    assert list(source.names[:2]) == ["sub-000_hemi-L", "sub-001_hemi-R"]
    assert source.people[7] == "007"


def test_both_sides_and_both_sessions_of_one_person_are_one_person(cohort, cache):
    names = (
        "sub-01/ses-1/anat/sub-01_ses-1_hemi-L_gw.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_hemi-R_gw.nii.gz",
        "IXI12_hemi-L_gw.nii.gz",
        "IXI12_hemi-R_gw.nii.gz",
        "Lgrey_white_ada.nii.gz",
        "Rgrey_white_ada.nii.gz",
    )
    for name in names:
        (cohort / name).parent.mkdir(parents=True, exist_ok=True)
        (cohort / name).touch()
    source = open_hemispheres(cohort, cache)
    assert sorted(source.people) == ["01", "01", "IXI12gw", "IXI12gw", "ada", "ada"]
    assert len(set(source.names)) == 6


def test_the_same_name_in_two_folders_is_told_apart_by_its_path(cohort, cache):
    for site in "ab":
        (cohort / site).mkdir(parents=True)
        (cohort / site / "sub-01_hemi-L_gw.nii.gz").touch()
    assert list(open_hemispheres(cohort, cache).names) == ["a/sub-01_hemi-L_gw.nii.gz L", "b/sub-01_hemi-L_gw.nii.gz L"]


@pytest.mark.parametrize(
    "other",
    [
        "sub-01_hemi-L_T1w.nii.gz",
        "sub-01_hemi-L_labels.nii.gz",
        "sub-01_hemi-L_desc-pred_probseg.nii.gz",
        "sub-01_hemi-L_desc-skel_mask.nii.gz",
        "sub-01_hemi-L_seg-sulci_desc-corr_dseg.nii.gz",
        "Lskeleton_01.nii.gz",
        "sub-01_hemi-L_brain.nii.gz",
        "sub-01_space-MNI152NLin6Asym_hemi-L_tissue.nii.gz",
        ".sub-01_hemi-L_gw.nii.gz",
    ],
)
def test_what_is_named_as_something_else_is_no_hemisphere(cohort, cache, other):
    cohort.mkdir()
    (cohort / other).touch()
    (cohort / "sub-02_hemi-R_tissue.nii.gz").touch()
    assert list(open_hemispheres(cohort, cache).names) == ["sub-02_hemi-R"]


def test_images_beside_grey_white_maps_are_left_out_and_said_to_be(cohort, cache):
    cohort.mkdir()
    for name in ("sub-01_hemi-L_gw.nii.gz", "sub-01_hemi-L_thickness.nii.gz"):
        (cohort / name).touch()
    source = open_hemispheres(cohort, cache)
    assert list(source.names) == ["sub-01_hemi-L"]
    assert source.notes[0].startswith("1 image left out")


def test_a_session_gives_its_grey_white_maps(tmp_path, cache, coarse_left, coarse_right):
    session = Session.create(tmp_path / "session")
    for case in (coarse_left, coarse_right):
        session.add(case)
    source = open_hemispheres(session.root, cache)
    assert list(source.names) == [case.key.stem for case in (coarse_left, coarse_right)]
    assert list(source.people) == ["phantom60mm"] * 2
    assert source.draw(1, SIZE, np.random.default_rng(0)).image.any()


def test_a_freesurfer_subject_and_a_pair_of_probabilities_give_both_sides(cohort, cache, save, person):
    save("cohort/subjects/bert/mri/ribbon.mgz", person.ribbon(), person.affine)
    total = person.left + person.right
    save("cohort/spm/c1ada.nii", (total == 1).astype(np.float32) * np.float32(0.9), person.affine)
    save("cohort/spm/c2ada.nii", (total == 2).astype(np.float32) * np.float32(0.9), person.affine)
    source = open_hemispheres(cohort, cache)
    assert sorted(source.people) == ["bert", "bert", "c1ada", "c1ada"]
    by_name = {name: source.draw(i, SIZE, np.random.default_rng(0)) for i, name in enumerate(source.names)}
    assert all(patch.image.any() for patch in by_name.values())
    assert np.array_equal(by_name["sub-bert_hemi-L"].image, by_name["sub-bert_hemi-R"].image)


def test_an_empty_folder_says_what_was_looked_for(tmp_path, cache):
    with pytest.raises(InputError, match="grey/white or tissue maps"):
        open_hemispheres(tmp_path, cache)


def test_scans_alone_are_advised_to_be_prepared(tmp_path, cache, save):
    scan = save("sub-01_T1w.nii.gz", np.random.default_rng(0).random((9, 9, 9), np.float32), np.eye(4))
    for path in (tmp_path, scan):
        with pytest.raises(InputError, match="napari-pcs prepare"):
            open_hemispheres(path, cache)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x1f\x8b\x08" + bytes(40)])
def test_a_corrupt_file_is_an_input_error_that_names_it(cohort, cache, content):
    cohort.mkdir()
    (cohort / "sub-01_hemi-L_gw.nii.gz").write_bytes(content)
    source = open_hemispheres(cohort, cache)
    with pytest.raises(InputError, match=r"sub-01_hemi-L_gw\.nii\.gz"):
        source.draw(0, SIZE, np.random.default_rng(0))
    assert not list(cache.glob("*"))


def test_a_truncated_a_vanished_an_exchanged_and_a_sideless_map_are_input_errors(
    put, cohort, cache, coarse_left, coarse_right
):
    cut = put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    cut.write_bytes(cut.read_bytes()[:2000])
    gone = put(coarse_left, "sub-02_hemi-L_gw.nii.gz")
    put(coarse_right, "sub-03_hemi-L_gw.nii.gz")
    put(coarse_left, "sub-04_gw.nii.gz")
    source = open_hemispheres(cohort, cache)
    gone.unlink()
    expected = ("truncated", "No such file", "medial wall", "does not say which hemisphere")
    for index, words in enumerate(expected):
        with pytest.raises(InputError, match=words):
            source.draw(index, SIZE, np.random.default_rng(0))


def test_mixed_spacing_and_a_lone_person_are_said(put, cohort, cache, fine, coarse_left):
    put(fine[L], "sub-01_hemi-L_gw.nii.gz")
    assert open_hemispheres(cohort, cache).notes == ("1 hemisphere of 1 person: nothing is held out.",)
    put(fine[R], "sub-02_hemi-R_gw.nii.gz")
    assert open_hemispheres(cohort, cache).notes == ()
    put(coarse_left, "sub-03_hemi-L_gw.nii.gz")
    assert open_hemispheres(cohort, cache).notes == ("2 hemispheres of 1 mm and 1 of 1.2 mm: all are brought to 1 mm.",)


def test_the_digest_follows_names_and_sizes(put, cohort, cache, coarse_left):
    path = put(coarse_left, "sub-01_hemi-L_gw.nii.gz")
    first = open_hemispheres(cohort, cache).digest
    assert open_hemispheres(cohort, cache).digest == first
    path.write_bytes(path.read_bytes() + b"\0")
    longer = open_hemispheres(cohort, cache).digest
    path.rename(cohort / "sub-02_hemi-L_gw.nii.gz")
    assert len({first, longer, open_hemispheres(cohort, cache).digest}) == 3


def test_drawing_from_many_hemispheres_keeps_nothing_of_them(put, cohort, cache, coarse_left):
    path = put(coarse_left, "sub-00_hemi-L_gw.nii.gz")
    for n in range(1, 40):
        (cohort / f"sub-{n:02}_hemi-L_gw.nii.gz").symlink_to(path)
    source = open_hemispheres(cohort, cache)
    source.draw(0, SIZE, np.random.default_rng(0))
    voxels, description = next(cache.glob("*.npy")), next(cache.glob("*.json"))
    for one in source._listed[1:]:
        entry = HemisphereCache(cache).entry(one.files, one.hemisphere)
        entry.with_suffix(".npy").hardlink_to(voxels)
        entry.with_suffix(".json").hardlink_to(description)
    source.draw(1, SIZE, np.random.default_rng(0))
    tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        for index in range(40):
            source.draw(index, SIZE, np.random.default_rng(index))
        left = tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()
    assert len(list(cache.glob("*.npy"))) == 40
    assert left < voxels.stat().st_size / 10


def test_real_hemispheres_are_listed_by_person_and_drawn_as_the_network_sees_them(real_data, cache):
    folder = real_data / "hemispheres"
    if not folder.is_dir():
        pytest.skip("no hemispheres among the real data")
    source = open_hemispheres(folder, cache)
    assert (len(source.names), len(set(source.people))) == (110, 55)
    assert source.notes == ()
    index = source.names.index("sub-07_hemi-R")
    volume = Volume.read(folder / "sub-07_hemi-R_gw.nii.gz")
    whole = network_input(case_of(volume, CaseKey("07", "", R))[0], position=True).image
    patch = source.draw(index, SIZE, np.random.default_rng(0))
    where = tuple(slice(f, f + n) for f, n in zip(place_of(whole, patch), SIZE, strict=True))
    assert np.array_equal(patch.image, whole[(slice(0, 1), *where)])
    assert np.array_equal(patch.position, whole[(slice(1, 4), *where)])
