"""Bundles, against an independent reader of their format, damaged files, refusing disks and other processes."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from napari_pcs import locks
from napari_pcs.data import bundle_file, room
from napari_pcs.data.bundles import Bundles, bundle_key
from napari_pcs.errors import SessionError
from napari_pcs.locks import locked_file

PLENTY = 10**9
KEYS = [bundle_key("key", str(n)) for n in range(200)]
KEY = KEYS[0]
posix = pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be removed on Windows")


@pytest.fixture
def bundles(tmp_path):
    return Bundles(tmp_path / "kept", PLENTY)


def content(seed=0, count=250):
    """Bundle of which a thousand bytes are arrays."""
    return {"values": np.random.default_rng(seed).standard_normal(count).astype(np.float32)}


def path_of(bundles, key=KEY):
    return bundles.folder / key[:2] / f"{key}.safetensors"


def size_of_one(tmp_path):
    """Bytes of a file with `content`."""
    trial = Bundles(tmp_path / "trial", PLENTY)
    assert trial.write(KEY, content())
    return path_of(trial).stat().st_size


def counted(bundles):
    """Bytes that the shared count says, and that the files take."""
    files = [path for path in bundles.folder.rglob("*.safetensors") if path.is_file()]
    return int((bundles.folder / "size").read_text()), sum(path.stat().st_size for path in files)


def leftovers(bundles):
    return list(bundles.folder.rglob("*.part"))


def anew(bundles):
    """Return the same folder as a process sees it that has not opened any of its files."""
    return Bundles(bundles.folder, bundles.limit_bytes)


# What is written is what is read


ARRAYS = {
    "half": np.linspace(-3, 3, 24, dtype=np.float16).reshape(2, 3, 4),
    "single": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32),
    "double": np.array(2.5),
    "bytes": np.arange(7, dtype=np.uint8),
    "signed": np.array([-1, 2**60]),
    "truth": np.array([[True, False, True]]),
    "nothing": np.zeros((0, 4), np.float32),
    "turned": np.arange(12, dtype=np.int32).reshape(3, 4).T,
    "sparse": np.arange(40, dtype=np.float32)[::3],
    "foreign order": np.arange(5, dtype=">i4"),
    "sulcus paracingularis é": np.array([1, 2], np.int16),
}
NOTE = {"name": "Zoë, µm, 副帯状溝", "list": [1, 2.5, None, True], "nested": {"quote": '"checksum":"00000000"'}}


def test_arrays_of_every_type_and_shape_come_back_as_they_were(bundles):
    assert bundles.write(KEY, ARRAYS, NOTE)
    for found in (bundles.read(KEY), anew(bundles).read(KEY)):
        assert found.note == NOTE
        assert set(found.arrays) == set(ARRAYS)
        for name, array in ARRAYS.items():
            read = found.arrays[name]
            assert read.dtype == array.dtype.newbyteorder("<")
            assert read.shape == array.shape
            assert not read.flags.writeable
            assert read.flags.aligned
            np.testing.assert_array_equal(read, array)


def test_another_reader_of_the_format_finds_the_same(bundles):
    bundles.write(KEY, ARRAYS, NOTE)
    found = load_file(path_of(bundles))
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_a_bundle_may_hold_no_array_and_no_note(bundles):
    assert bundles.write(KEY, {})
    found = anew(bundles).read(KEY)
    assert (dict(found.arrays), dict(found.note)) == ({}, {})


def test_only_what_is_asked_for_is_read_from_the_disk(bundles):
    bundles.write(KEY, content())
    values = bundles.read(KEY).arrays["values"]
    owner = values
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert not owner.flags.owndata


@pytest.mark.parametrize("array", [np.zeros(2, complex), np.array(["a"]), np.array([None])])
def test_an_array_of_a_type_that_the_format_does_not_have_is_an_error(bundles, array):
    with pytest.raises(TypeError, match="expected one of"):
        bundles.write(KEY, {"a": array})
    assert not bundles.has(KEY)


def test_a_note_that_is_not_json_is_an_error_and_leaves_nothing(bundles):
    with pytest.raises(TypeError, match="JSON"):
        bundles.write(KEY, content(), {"path": Path()})
    assert leftovers(bundles) == []


@pytest.mark.parametrize("key", ["../../somewhere", "ABCDEF0123", "", "0123", "x" * 64])
def test_a_key_that_is_not_one_is_an_error(bundles, key):
    for use in (bundles.read, bundles.has, bundles.discard, lambda k: bundles.write(k, content())):
        with pytest.raises(ValueError, match="expected hex digits"):
            use(key)


def test_writing_again_replaces(bundles):
    bundles.write(KEY, content(1))
    before = bundles.read(KEY)
    bundles.write(KEY, content(2, 500), {"n": 2})
    np.testing.assert_array_equal(bundles.read(KEY).arrays["values"], content(2, 500)["values"])
    assert bundles.read(KEY).note == {"n": 2}
    np.testing.assert_array_equal(before.arrays["values"], content(1)["values"])
    assert counted(bundles)[0] == counted(bundles)[1]


def test_what_is_not_there_is_none_and_makes_no_folder(bundles):
    assert bundles.read(KEY) is None
    assert not bundles.has(KEY)
    bundles.discard(KEY)
    assert bundles.usage() == (0, 0)
    assert bundles.clear() == 0
    assert not bundles.folder.exists()


def test_a_discarded_bundle_is_gone_for_every_process(bundles):
    other = anew(bundles)
    bundles.write(KEY, content())
    bundles.write(KEYS[1], content())
    assert other.read(KEY) is not None
    bundles.discard(KEY)
    assert other.read(KEY) is None
    assert not other.has(KEY)
    assert counted(bundles) == (other.usage()[1], other.usage()[1])


def test_clearing_frees_what_usage_said(bundles):
    for key in KEYS[:5]:
        bundles.write(key, content())
    count, size = bundles.usage()
    assert (count, bundles.clear()) == (5, size)
    assert bundles.usage() == (0, 0)
    assert counted(bundles) == (0, 0)
    assert bundles.write(KEY, content())


@posix
def test_arrays_stay_readable_when_their_bundle_is_gone(bundles):
    bundles.write(KEY, content())
    found = anew(bundles).read(KEY)
    bundles.clear()
    np.testing.assert_array_equal(found.arrays["values"], content()["values"])


# Damaged files


def test_a_file_that_is_cut_anywhere_counts_as_none_and_is_removed(bundles, caplog):
    bundles.write(KEY, content(), NOTE)
    whole = path_of(bundles).read_bytes()
    for length in np.linspace(0, len(whole) - 1, 20).astype(int):
        path_of(bundles).write_bytes(whole[:length])
        assert anew(bundles).read(KEY) is None
        assert not bundles.has(KEY)
        # And by who had read it before.
        assert bundles.write(KEY, content(), NOTE)
        assert bundles.read(KEY) is not None
        os.truncate(path_of(bundles), length)
        assert bundles.read(KEY) is None
        assert not path_of(bundles).exists()
    assert "counts as none" in caplog.text


def test_a_file_with_more_than_was_written_counts_as_none(bundles):
    bundles.write(KEY, content())
    with path_of(bundles).open("ab") as stream:
        stream.write(b"\0" * 8)
    assert bundles.read(KEY) is None
    assert not bundles.has(KEY)


def test_a_single_altered_byte_anywhere_makes_it_count_as_none(bundles):
    bundles.write(KEY, {"a": np.arange(9, dtype=np.uint8)}, NOTE)
    whole = path_of(bundles).read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        path_of(bundles).write_bytes(altered)
        assert anew(bundles).read(KEY) is None, f"byte {place} of {len(whole)}"
        assert not bundles.has(KEY)


def test_a_byte_that_is_altered_after_it_was_read_is_noticed(bundles):
    bundles.write(KEY, content())
    assert bundles.read(KEY) is not None
    with path_of(bundles).open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x55")
    assert bundles.read(KEY) is None


def test_the_checksum_is_verified_once_a_process(bundles, monkeypatch):
    bundles.write(KEY, content())
    verified = []
    real = bundle_file._verify
    monkeypatch.setattr(bundle_file, "_verify", lambda *a: (verified.append(1), real(*a)))
    fresh = anew(bundles)
    for _ in range(3):
        assert fresh.read(KEY) is not None
    assert len(verified) == 1
    bundles.write(KEY, content(1))
    assert fresh.read(KEY) is not None
    assert len(verified) == 2


def test_a_file_of_another_origin_counts_as_none(bundles):
    bundles.write(KEY, content())
    save_file({"values": np.ones(3)}, path_of(bundles), {"note": "{}", "key": KEY})
    assert bundles.read(KEY) is None
    assert not bundles.has(KEY)
    path_of(bundles).write_text("not even that")
    assert bundles.read(KEY) is None


def test_a_bundle_under_the_name_of_another_counts_as_none(bundles):
    bundles.write(KEYS[1], content())
    path_of(bundles).parent.mkdir()
    shutil.copy(path_of(bundles, KEYS[1]), path_of(bundles))
    assert bundles.read(KEY) is None
    assert bundles.read(KEYS[1]) is not None


def test_a_file_that_cannot_be_read_just_now_is_left_alone(bundles, monkeypatch):
    bundles.write(KEY, content())

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(bundle_file, "_read_header", fail)
    assert bundles.read(KEY) is None
    monkeypatch.undo()
    assert bundles.read(KEY) is not None


# Disks and folders that refuse


REFUSALS = {errno.ENOSPC: "the disk is full", errno.EROFS: "the folder is read-only", errno.EDQUOT: "the disk is full"}


@pytest.mark.parametrize(("code", "reason"), REFUSALS.items())
def test_a_disk_that_refuses_halfway_is_told_once_and_tried_again(bundles, monkeypatch, caplog, code, reason):
    bundles.write(KEY, content(7))
    real, calls = bundle_file._put, []

    def refuse(stream, part):
        calls.append(1)
        if len(calls) % 2 == 0:
            real(stream, bytes(part)[:100])
            raise OSError(code, os.strerror(code))
        real(stream, part)

    monkeypatch.setattr(bundle_file, "_put", refuse)
    with caplog.at_level(logging.WARNING):
        for key in KEYS[:4]:
            assert not bundles.write(key, content())
    (told,) = caplog.messages
    assert reason in told
    assert str(bundles.folder) in told
    assert leftovers(bundles) == []
    monkeypatch.undo()
    np.testing.assert_array_equal(bundles.read(KEY).arrays["values"], content(7)["values"])
    assert bundles.write(KEYS[1], content())
    assert counted(bundles)[0] == counted(bundles)[1]


def test_a_write_that_the_system_really_cuts_off_keeps_nothing(bundles, caplog):
    resource = pytest.importorskip("resource", reason="needs the limits of a POSIX system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        assert not bundles.write(KEY, {"a": np.zeros(1 << 17, np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in caplog.text
    assert not bundles.has(KEY)
    assert leftovers(bundles) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read_is_read_and_told(bundles, caplog):
    bundles.write(KEY, content())
    folders = [bundles.folder, path_of(bundles).parent]
    for folder in folders:
        folder.chmod(0o500)
    try:
        fresh = anew(bundles)
        assert fresh.read(KEY) is not None
        assert not fresh.write(KEYS[1], content())
        fresh.discard(KEY)
        assert fresh.read(KEY) is not None
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert "the folder is read-only" in caplog.text


def test_a_file_where_the_folder_should_be_keeps_nothing_and_raises_nothing(tmp_path, caplog):
    (tmp_path / "kept").write_text("no folder")
    bundles = Bundles(tmp_path / "kept", PLENTY)
    assert not bundles.write(KEY, content())
    assert bundles.read(KEY) is None
    assert not bundles.has(KEY)
    assert bundles.usage() == (0, 0)
    assert (tmp_path / "kept").read_text() == "no folder"
    assert "is not kept" in caplog.text


def test_a_folder_in_place_of_a_file_keeps_nothing_and_raises_nothing(bundles):
    path_of(bundles).mkdir(parents=True)
    assert bundles.read(KEY) is None
    assert not bundles.write(KEY, content())
    bundles.discard(KEY)
    assert bundles.write(KEYS[1], content())


def test_a_folder_that_somebody_empties_is_made_again(bundles):
    for _ in range(2):
        assert bundles.write(KEY, content())
        shutil.rmtree(bundles.folder)
        assert bundles.read(KEY) is None
    assert bundles.write(KEY, content())
    assert counted(bundles)[0] == counted(bundles)[1]


def test_a_file_in_use_on_windows_is_neither_replaced_nor_evicted_and_raises_nothing(tmp_path, monkeypatch, caplog):
    bundles = Bundles(tmp_path / "kept", int(2.5 * size_of_one(tmp_path)))
    for key in KEYS[:2]:
        assert bundles.write(key, content())

    unlink = os.unlink

    def in_use(*_):
        raise PermissionError(errno.EACCES, "used by another process")

    monkeypatch.setattr(os, "unlink", lambda path: (in_use if str(path).endswith(".safetensors") else unlink)(path))
    assert not bundles.write(KEYS[2], content())  # there is no room
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", in_use)
    assert not bundles.write(KEYS[1], content(1))
    monkeypatch.undo()
    assert [bundles.has(key) for key in KEYS[:3]] == [True, True, False]
    assert "read-only" not in caplog.text
    np.testing.assert_array_equal(bundles.read(KEYS[1]).arrays["values"], content()["values"])
    assert leftovers(bundles) == []
    assert counted(bundles)[0] == counted(bundles)[1]


def test_a_folder_that_another_process_holds_for_long_is_not_waited_for(bundles, monkeypatch, caplog):
    bundles.write(KEY, content())
    monkeypatch.setattr(room, "_WAIT_S", 0.02)
    with locked_file(bundles.folder / "size", 1):
        assert not bundles.write(KEYS[1], content())
        assert bundles.read(KEY) is not None
        with pytest.raises(SessionError, match="held by another process"):
            bundles.clear()
    assert "another process holds it" in caplog.text
    assert bundles.write(KEYS[1], content())


def test_a_file_system_without_locks_is_used_without(bundles, monkeypatch):
    def none(_handle, *, shared):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "take", none)
    assert bundles.write(KEY, content())
    assert bundles.read(KEY) is not None


# The limit


def test_what_was_used_longest_ago_goes_first(tmp_path):
    one = size_of_one(tmp_path)
    bundles = Bundles(tmp_path / "kept", int(4.5 * one))
    a, b, c, d, e, f, g = KEYS[:7]
    for key in (a, b, c, d):
        assert bundles.write(key, content())
    bundles.read(a)
    assert bundles.write(e, content())  # four and a half would fit, 90 % of them are four: b goes
    assert [bundles.has(key) for key in (a, b, c, d, e)] == [True, False, True, True, True]
    anew(bundles).read(c)  # as another process would
    assert bundles.write(f, content())
    assert [bundles.has(key) for key in (a, c, d, e, f)] == [True, True, False, True, True]
    assert bundles.write(g, content())
    assert [bundles.has(key) for key in (a, c, e, f, g)] == [False, True, True, True, True]
    assert bundles.usage() == (4, 4 * one)
    assert counted(bundles) == (4 * one, 4 * one)


def test_looking_without_reading_is_no_use(tmp_path):
    bundles = Bundles(tmp_path / "kept", int(2.9 * size_of_one(tmp_path)))
    for key in KEYS[:2]:
        bundles.write(key, content())
    assert bundles.has(KEYS[0])
    bundles.write(KEYS[2], content())
    assert [bundles.has(key) for key in KEYS[:3]] == [False, True, True]


def test_a_bundle_larger_than_the_limit_is_not_kept_and_drives_nothing_out(tmp_path, caplog):
    one = size_of_one(tmp_path)
    bundles = Bundles(tmp_path / "kept", one)
    assert bundles.write(KEY, content())
    assert not bundles.write(KEYS[1], content(0, 5000))
    assert bundles.read(KEY) is not None
    assert bundles.write(KEYS[1], content())  # exactly the limit
    assert [bundles.has(key) for key in KEYS[:2]] == [False, True]
    assert "There is no room" in caplog.text


def test_arrays_that_fit_only_without_their_header_are_not_kept(tmp_path):
    bundles = Bundles(tmp_path / "kept", 1000)
    assert not bundles.write(KEY, content())
    assert bundles.usage() == (0, 0)


def test_a_limit_of_nothing_keeps_nothing(tmp_path):
    bundles = Bundles(tmp_path / "kept", 0)
    assert not bundles.write(KEY, content())
    assert not bundles.write(KEY, {})
    assert bundles.usage() == (0, 0)


def test_files_are_looked_at_only_when_some_must_go_and_then_room_is_made_for_many(tmp_path, monkeypatch):
    one, scans = size_of_one(tmp_path), []
    real = room.files_of
    monkeypatch.setattr(room, "files_of", lambda folder: (scans.append(1), real(folder))[1])
    bundles = Bundles(tmp_path / "kept", 50 * one)
    for key in KEYS:
        assert bundles.write(key, content())
        assert counted(bundles)[1] <= 50 * one
    # The first look, and one for each tenth of 50 bundles beyond the first 50.
    assert len(scans) <= 1 + 150 / 5 + 1
    assert 45 <= bundles.usage()[0] <= 50


def test_a_fresh_process_counts_what_was_there_before_it(tmp_path, monkeypatch):
    one = size_of_one(tmp_path)
    bundles = Bundles(tmp_path / "kept", 3 * one)
    for key in KEYS[:3]:
        bundles.write(key, content())
    (bundles.folder / "size").write_text("garbage")
    monkeypatch.setattr(room, "_scanned", set())
    assert anew(bundles).write(KEYS[3], content())
    assert counted(bundles)[0] == counted(bundles)[1] <= 3 * one


def test_the_half_written_file_of_a_dead_process_goes_and_that_of_a_living_one_stays(bundles):
    bundles.write(KEY, content())
    dead, living = (path_of(bundles).with_name(f".{name}.part") for name in ("dead", "living"))
    for part in (dead, living):
        part.write_bytes(b"half")
    os.utime(dead, (time.time() - 7200,) * 2)
    assert bundles.usage()[0] == 1
    assert (dead.exists(), living.exists()) == (False, True)


# Several at once


PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from napari_pcs.data.bundles import Bundles, bundle_key

folder, limit, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
bundles, rng = Bundles(folder, limit), np.random.default_rng(seed)
print("ready", flush=True)
sys.stdin.readline()
until, hits, kept, held = time.monotonic() + seconds, 0, 0, []
while time.monotonic() < until:
    n = int(rng.integers(30))
    key = bundle_key("key", str(n))
    values = np.random.default_rng(n).standard_normal(5000).astype(np.float32)
    action = rng.random()
    if action < 0.5:
        found = bundles.read(key)
        if found is not None:
            hits += 1
            assert found.note == {"n": n}
            assert np.array_equal(found.arrays["values"], values)
            held = [*held[-20:], (found.arrays["values"], values)]
    elif action < 0.95:
        kept += bundles.write(key, {"values": values}, {"n": n})
    elif action < 0.99:
        bundles.discard(key)
    else:
        bundles.clear()
assert all(np.array_equal(a, b) for a, b in held)
print(hits, kept)
"""


@posix
def test_two_processes_that_share_a_small_folder_never_get_a_wrong_array(tmp_path):
    limit, one, seconds = 200_000, 20_500, 1.5
    folder = tmp_path / "kept"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder), str(limit), str(seed), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    watched, most = Bundles(folder, limit), 0
    while any(process.poll() is None for process in processes):
        most = max(most, watched.usage()[1])
        time.sleep(0.005)
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert err == ""
        hits, kept = map(int, out.split())
        assert hits > 10
        assert kept > 10
    assert 0 < most <= limit + 2 * one
    assert watched.usage()[1] <= limit
    assert counted(watched)[0] == counted(watched)[1]
    assert leftovers(watched) == []


def test_threads_share_one_folder(tmp_path):
    bundles = Bundles(tmp_path / "kept", 8 * size_of_one(tmp_path))
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(60):
                n = int(rng.integers(12))
                if rng.random() < 0.5:
                    bundles.write(KEYS[n], content(n))
                elif (found := bundles.read(KEYS[n])) is not None:
                    np.testing.assert_array_equal(found.arrays["values"], content(n)["values"])
        except BaseException as error:  # noqa: BLE001  whatever it is, the test tells
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert counted(bundles)[0] == counted(bundles)[1] <= bundles.limit_bytes


@posix
def test_a_process_that_is_killed_while_it_holds_the_count_keeps_nobody_from_writing(bundles):
    bundles.write(KEY, content())
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom napari_pcs.locks import locked_file\n"
        "with locked_file(Path(sys.argv[1]), 5):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(bundles.folder / "size")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert bundles.write(KEYS[1], content())


# Keys


def test_a_key_tells_arrays_apart_by_values_shape_and_type():
    base = np.arange(12, dtype=np.float32)
    changed = base.copy()
    changed[5] = 5.5
    others = [
        base.reshape(3, 4),
        base.reshape(4, 3),
        base.astype(np.float64),
        base.view(np.int32),
        base[:-1],
        base[::-1],
        changed,
        base[:1],
        base[:0],
        base[:0].reshape(0, 3),
        base[0],
        np.asarray(base[0]),
    ]
    keys = {bundle_key(array) if isinstance(array, np.ndarray) else bundle_key("scalar") for array in [base, *others]}
    assert len(keys) == len(others) + 1


def test_a_key_does_not_depend_on_how_an_array_lies_in_memory():
    base = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    wide = np.zeros((4, 3, 8), np.int16)
    wide[::2, :, ::2] = base
    for same in (np.asfortranarray(base), wide[::2, :, ::2], base.astype(">i2"), base.T.copy().T):
        assert bundle_key(same) == bundle_key(base)


def test_a_key_depends_on_the_order_and_the_borders_of_its_parts():
    one, two = np.arange(3), np.arange(3, 6)
    keys = [
        bundle_key("ab", "c"),
        bundle_key("a", "bc"),
        bundle_key("abc"),
        bundle_key("c", "ab"),
        bundle_key(b"abc"),
        bundle_key(),
        bundle_key(""),
        bundle_key("", ""),
        bundle_key(one, two),
        bundle_key(two, one),
        bundle_key(np.concatenate([one, two])),
        bundle_key(one.tobytes()),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


def test_a_key_is_the_same_in_every_process():
    code = "import numpy as np; from napari_pcs.data.bundles import bundle_key; print(bundle_key('ä', b'x', np.eye(2)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == bundle_key("ä", b"x", np.eye(2))


@pytest.mark.parametrize("part", [3, 2.5, None, ["a"], np.array([object()])])
def test_a_key_of_anything_else_is_an_error(part):
    with pytest.raises(TypeError, match="A key of"):
        bundle_key(part)


def test_the_header_is_what_the_format_says(bundles):
    """The specification by hand: length, JSON with types, shapes and offsets, then the bytes."""
    bundles.write(KEY, {"b": np.array([1, 2], np.uint8), "a": np.array([[1.5]], np.float32)}, {"n": 1})
    raw = path_of(bundles).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header["a"] == {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}
    assert header["b"] == {"dtype": "U8", "shape": [2], "data_offsets": [4, 6]}
    assert json.loads(header["__metadata__"]["note"]) == {"n": 1}
    assert raw[8 + length :] == np.float32(1.5).tobytes() + b"\x01\x02"
    assert (8 + length) % 64 == 0
