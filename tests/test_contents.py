import os
import time

import pytest

from napari_pcs import contents as module
from napari_pcs.contents import Contents


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def age(root, seconds=60):
    """Let every folder have been changed some time ago."""
    then = time.time() - seconds
    for folder in (root, *(p for p in root.rglob("*") if p.is_dir())):
        os.utime(folder, (then, then))


def names_of(contents, root):
    return {os.path.relpath(folder, root): set(names) for folder, names in contents.names()}


def expected(root):
    """The same by pathlib's own patterns."""
    anats = [p for place in ("sub-*/anat", "sub-*/ses-*/anat") for p in root.glob(place) if p.is_dir()]
    found = {p.relative_to(root).as_posix(): {f.name for f in p.iterdir() if f.is_file()} for p in anats}
    return {folder: names for folder, names in found.items() if names}


@pytest.fixture
def root(tmp_path):
    touch(
        tmp_path,
        "participants.tsv",
        "sub-01/anat/a.nii.gz",
        "sub-01/anat/b.json",
        "sub-01/ses-1/anat/c.nii.gz",
        "sub-02/ses-1/func/d.nii.gz",
        "sub-03/anat/more/e.nii.gz",
        "models/sub-04/anat/f.nii.gz",
        "sub-05",
        "sub-06/anat",
    )
    return tmp_path


def test_names_are_those_of_the_files_in_anat_folders(root):
    assert names_of(Contents(root), root) == expected(root) == {
        "sub-01/anat": {"a.nii.gz", "b.json"}, "sub-01/ses-1/anat": {"c.nii.gz"},
    }  # fmt: skip
    assert names_of(Contents(root / "none"), root) == {}


CHANGES = {
    "a file": lambda root: touch(root, "sub-01/anat/new.nii.gz"),
    "a person": lambda root: touch(root, "sub-07/anat/new.nii.gz"),
    "a session": lambda root: touch(root, "sub-01/ses-9/anat/new.nii.gz"),
    "a first file": lambda root: touch(root, "sub-02/anat/new.nii.gz"),
    "a file less": lambda root: (root / "sub-01/anat/a.nii.gz").unlink(),
    "a file renamed": lambda root: (root / "sub-01/anat/a.nii.gz").rename(root / "sub-01/anat/z.nii.gz"),
    "a person moved": lambda root: (root / "sub-01").rename(root / "sub-11"),
    "a folder moved": lambda root: (root / "sub-01/anat").rename(root / "sub-02/anat"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("seconds", [0, 60])
def test_what_another_program_changes_is_seen(root, change, seconds):
    age(root, seconds)
    contents = Contents(root)
    assert names_of(contents, root) == expected(root)
    change(root)
    assert names_of(contents, root) == expected(root)


def test_a_change_that_leaves_the_folders_time_as_it_was_is_seen_while_the_folder_is_young(root):
    """Two changes within one tick of a file system's clock."""
    contents = Contents(root)
    before = (root / "sub-01/anat").stat()
    assert names_of(contents, root) == expected(root)
    touch(root, "sub-01/anat/new.nii.gz")
    os.utime(root / "sub-01/anat", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert names_of(contents, root) == expected(root)


def test_folders_that_have_not_changed_are_not_read_again(root, monkeypatch):
    age(root)
    contents, read = Contents(root), []
    scandir = os.scandir
    monkeypatch.setattr(
        module.os, "scandir", lambda folder: read.append(os.path.relpath(folder, root)) or scandir(folder)
    )
    list(contents.names())
    assert "sub-01/anat" in read
    read.clear()
    touch(root, "sub-01/ses-1/anat/new.nii.gz")
    assert names_of(contents, root)["sub-01/ses-1/anat"] == {"c.nii.gz", "new.nii.gz"}
    assert "sub-01/ses-1/anat" in read
    assert not {".", "sub-01", "sub-01/anat", "sub-01/ses-1", "sub-02"} & set(read)
