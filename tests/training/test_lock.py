"""Locks of runs, between real processes."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from pretraining import start

from napari_pcs.errors import ModelError, SessionError
from napari_pcs.training import lock
from napari_pcs.training.lock import is_locked, run_lock

HOLD = """
import sys, time
from pathlib import Path
from napari_pcs.training.lock import run_lock
with run_lock(Path(sys.argv[1])):
    {meanwhile}
    print("held", flush=True)
    time.sleep(60)
"""
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks of a POSIX system")


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds a run, and return it once it does."""
    started = []

    def start(folder, meanwhile="pass"):
        code = HOLD.format(meanwhile=meanwhile)
        process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_the_run(hold, tmp_path):
    run = tmp_path / "7-context"
    holder = hold(run)
    expected = (
        f"Run 7-context: found it being trained by another process (pid {holder.pid} on {socket.gethostname()}),"
        " expected none. Stop that one first."
    )
    with pytest.raises(ModelError) as error, run_lock(run):
        pytest.fail("two processes hold one run")
    assert str(error.value) == expected
    assert is_locked(run)
    with run_lock(tmp_path / "8-context"):  # another run is no concern of it
        pass


def test_a_killed_process_leaves_no_lock(hold, tmp_path):
    holder = hold(tmp_path)
    holder.kill()
    holder.wait()
    assert not is_locked(tmp_path)
    with run_lock(tmp_path):
        assert is_locked(tmp_path)


@posix
def test_a_killed_process_leaves_no_lock_to_its_forked_readers(hold, tmp_path):
    note = tmp_path / "reader"
    holder = hold(
        tmp_path,
        f"""import os
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    Path({str(note)!r}).write_text(str(pid))""",
    )
    reader = int(note.read_text())
    try:
        holder.kill()
        holder.wait()
        os.kill(reader, 0)  # it is still there
        with run_lock(tmp_path):
            pass
    finally:
        os.kill(reader, signal.SIGKILL)


def test_pretraining_does_not_touch_a_run_that_is_being_trained(tmp_path, maps):
    run = tmp_path / "run"
    run.mkdir()
    with run_lock(run):
        before = sorted(run.iterdir())
        with pytest.raises(ModelError, match="being trained by another process"):
            list(start(tmp_path, maps, resume=True))
        assert sorted(run.iterdir()) == before


def test_the_end_of_the_work_frees_the_run_however_it_ends(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    assert not is_locked(tmp_path)
    for _ in range(3):
        with run_lock(tmp_path), pytest.raises(ModelError, match=f"pid {os.getpid()} on "), run_lock(tmp_path):
            pytest.fail("one run is held twice")
    assert not is_locked(tmp_path)


def test_a_folder_that_was_never_held_is_free_and_stays_as_it_is(tmp_path):
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not is_locked(tmp_path / "missing")


def test_asking_keeps_nobody_from_holding(tmp_path, monkeypatch):
    """The moment in which a question holds the lock itself is waited for."""
    taken, naps = [True, True, False], []
    real = lock.take

    def busy(handle, *, shared):
        if taken.pop(0):
            raise BlockingIOError(errno.EAGAIN, "taken")
        real(handle, shared=shared)

    monkeypatch.setattr(lock, "take", busy)
    monkeypatch.setattr(time, "sleep", naps.append)
    with run_lock(tmp_path):
        assert len(naps) == 2


def test_a_file_system_without_locks_is_told_and_does_not_keep_anyone_from_training(tmp_path, monkeypatch):
    def none(_handle, *, shared):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock, "take", none)
    with pytest.warns(UserWarning, match="file system without locks"), run_lock(tmp_path):
        assert not is_locked(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SessionError, match="could not be written"), run_lock(tmp_path / "file"):
        pytest.fail("held a run that cannot be written")
