"""Which process takes which item."""

import os
import socket
import subprocess
import sys

import pytest

from napari_pcs.training.processes import Processes
from napari_pcs.turns import Turns

SCRIPT = """
import sys, time
from pathlib import Path
from napari_pcs.training.processes import Processes
from napari_pcs.turns import Turns

with Processes("cpu") as processes:
    for rank in (0, 1):
        taken = []
        with Turns(processes) as turns:
            for n, item in turns.take(list("abcdefghij")):
                assert item == "abcdefghij"[n]
                taken.append(str(n))
                time.sleep(1.0 if rank == processes.rank else 0.01)
        Path(sys.argv[1], f"{rank} is slow: {processes.rank}").write_text(" ".join(taken))
"""


def test_one_process_takes_all_in_order():
    assert list(Turns(Processes("cpu")).take("abc")) == [(0, "a"), (1, "b"), (2, "c")]
    assert list(Turns(Processes("cpu")).take("")) == []


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folder of what each of two processes took, first with one of them slow, then with the other."""
    folder = tmp_path_factory.mktemp("turns")
    (folder / "two.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port))
    command = [sys.executable, *launch, str(folder / "two.py"), str(folder)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    return folder


@pytest.mark.parametrize("slow", [0, 1])
def test_nothing_is_taken_twice_or_left_and_the_quick_one_takes_what_the_slow_one_has_not_begun(two_processes, slow):
    taken = [[int(n) for n in (two_processes / f"{slow} is slow: {rank}").read_text().split()] for rank in (0, 1)]
    assert sorted(taken[0] + taken[1]) == list(range(10))
    quick = taken[1 - slow]
    own = list(range(1 - slow, 10, 2))
    assert quick[: len(own)] == own
    assert len(quick) > 5
    assert quick[len(own) :] == sorted(quick[len(own) :], reverse=True)
