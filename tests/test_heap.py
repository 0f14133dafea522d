import platform
import subprocess
import sys

import psutil
import pytest

from napari_pcs import heap

SCRIPT = """
import threading
import numpy as np, psutil
from napari_pcs import heap

def resident():
    return psutil.Process().memory_info().rss / 2**20

def freed():
    for _ in range(3):
        held = [np.ones(8 * 2**20) for _ in range(4)]
        del held

def on_a_thread():
    thread = threading.Thread(target=freed)
    thread.start()
    thread.join()

if {reuse}:
    assert heap.reuse()
before = resident()
freed()
one = resident()
on_a_thread()
two = resident()
heap.give_back()
print(*(round(now - before) for now in (one, two, resident())))
"""


def megabytes(*, reuse):
    """What a process has more than before: after 256 MB were freed, once more on a thread, and when it gave back."""
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(reuse=reuse)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in found.stdout.split()]


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or psutil.virtual_memory().total < 12e9,
    reason="other C libraries cannot be told, and small machines are not",
)
def test_what_is_freed_is_kept_for_what_comes_next_until_it_is_given_back():
    once, again, in_the_end = megabytes(reuse=True)
    assert once == pytest.approx(256, abs=40)
    assert again == pytest.approx(256, abs=40)
    assert in_the_end < 40
    assert max(megabytes(reuse=False)) < 40


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not heap.reuse()
    heap.give_back()


def test_where_there_is_little_memory_nothing_is_kept(monkeypatch):
    small = psutil.virtual_memory()._replace(total=8e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    assert not heap.reuse()
