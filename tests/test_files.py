import errno
import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from napari_pcs.errors import SessionError
from napari_pcs.files import append_text, write_bytes, write_json, write_text

OLD, NEW = b"what was there", b"what comes instead"
REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space and save again",
    errno.EDQUOT: "the disk is full; free some space and save again",
    errno.EROFS: "the folder is read-only; choose another folder or change its permissions",
    errno.EACCES: "the folder is read-only; choose another folder or change its permissions",
    errno.EPERM: "the folder is read-only; choose another folder or change its permissions",
    errno.EIO: "the system refused (Input/output error); choose another folder",
}
STEPS = {"create": (tempfile, "mkstemp"), "flush": (os, "fsync"), "rename": (Path, "replace")}


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "folder" / "labels.nii.gz"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


def refusing(code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(("where", "what"), STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(("code", "reason"), REFUSALS.items(), ids=[errno.errorcode[code] for code in REFUSALS])
def test_a_refused_write_leaves_the_old_file_and_nothing_else(target, monkeypatch, where, what, code, reason):
    monkeypatch.setattr(where, what, refusing(code))
    with pytest.raises(SessionError) as caught:
        write_bytes(target, NEW)
    monkeypatch.undo()

    assert str(caught.value) == (
        f"labels.nii.gz: could not be written to {target.parent} because {reason}. Nothing was changed."
    )
    assert caught.value.__cause__.errno == code
    assert target.read_bytes() == OLD
    assert list(target.parent.iterdir()) == [target]


def test_a_write_that_the_system_really_cuts_off_leaves_the_old_file(target):
    resource = pytest.importorskip("resource", reason="needs the limits of a POSIX system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(SessionError, match=r"because the system refused \(File too large\)"):
            write_bytes(target, bytes(3 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == OLD
    assert list(target.parent.iterdir()) == [target]


def test_a_file_where_the_folder_should_be_is_refused_and_kept(target):
    with pytest.raises(
        SessionError, match=rf"^below.json: could not be written to {target} because the system refused"
    ):
        write_bytes(target / "below.json", NEW)
    assert target.read_bytes() == OLD


def test_a_folder_in_place_of_the_file_is_refused_and_kept(target):
    with pytest.raises(SessionError, match=r"^folder: could not be written"):
        write_bytes(target.parent, NEW)
    assert list(target.parent.parent.iterdir()) == [target.parent]
    assert target.read_bytes() == OLD


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_called_read_only(target):
    target.parent.chmod(0o500)
    try:
        with pytest.raises(SessionError, match="the folder is read-only"):
            write_bytes(target, NEW)
    finally:
        target.parent.chmod(0o700)
    assert target.read_bytes() == OLD


def test_a_write_replaces_the_file_and_leaves_no_other(target):
    write_bytes(target, NEW)
    assert target.read_bytes() == NEW
    assert list(target.parent.iterdir()) == [target]


def test_an_open_reader_goes_on_reading_the_old_file(target):
    with target.open("rb") as reader:
        write_bytes(target, NEW)
        assert reader.read() == OLD


def test_missing_folders_are_made(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.bin", NEW)
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == NEW


def test_the_content_is_on_disk_before_the_name_changes(target, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append((os.fstat(handle).st_size, target.read_bytes())))
    write_bytes(target, NEW)
    assert seen == [(len(NEW), OLD)]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_that_the_user_set(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "file", NEW)
    finally:
        after = os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert after == umask


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "t.tsv", "Zoë\t1 µm\n")
    assert (tmp_path / "t.tsv").read_bytes() == b"Zo\xc3\xab\t1 \xc2\xb5m\n"


def test_json_is_indented_readable_and_ends_with_a_line_break(tmp_path):
    content = {"Editor": "Zoë", "EditSeconds": 1.5, "Model": None, "Sources": ["a"]}
    write_json(tmp_path / "t.json", content)
    text = (tmp_path / "t.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert '\n  "Editor": "Zoë",\n' in text
    assert text.endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_old_file(target):
    with pytest.raises(TypeError):
        write_json(target, {"object": object()})
    assert target.read_bytes() == OLD


def test_what_is_appended_follows_what_is_there(tmp_path):
    path = tmp_path / "new" / "log"
    append_text(path, "erste\n")
    append_text(path, "zweite Zeile, länger\n")
    assert path.read_text() == "erste\nzweite Zeile, länger\n"


def test_an_append_that_the_disk_cuts_off_halfway_leaves_the_file_as_it_was(target, monkeypatch):
    write = os.write
    calls = []

    def full_after_three(handle, content):
        calls.append(bytes(content))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, content[:3])

    monkeypatch.setattr(os, "write", full_after_three)
    with pytest.raises(SessionError, match=r"could not be written to .* because the disk is full"):
        append_text(target, "one more")
    assert calls == [b"one more", b" more"]
    assert target.read_bytes() == OLD
