import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import Apart, Line, Numbers

from napari_pcs.errors import ModelError
from napari_pcs.training.processes import Processes
from napari_pcs.training.step import Passes

TESTS = Path(__file__).parents[1]
CASES = [(Line, 3), (Apart, 3), (Apart, 1)]
"""Tasks, and samples of a micro-batch."""
SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from toys import Apart, Line, Numbers
from napari_pcs.training.processes import Processes
from napari_pcs.training.step import Passes

processes = Processes("cpu")
for argument in sys.argv[2:]:
    name, micro_batch = argument.split("-")
    task = {"Line": Line, "Apart": Apart}[name]()
    if processes.rank:
        torch.nn.init.zeros_(task.line.weight)
    processes.synchronise(task)
    half = slice(0, 3) if processes.is_main else slice(3, 6)
    batch = {name: t[half] for name, t in Numbers().batch(1, 2).items()}
    told = Passes(task, processes, half=False).backward(batch, "main", int(micro_batch))
    told = processes.mean(told)
    processes.average_gradients(list(task.parameters()))
    gradients = torch.cat([p.grad.flatten() for p in task.parameters()])
    told = {name: torch.tensor(value) for name, value in told.items()}
    same = {"any": processes.any(processes.rank == 1), "smallest": processes.smallest(5 - processes.rank) == 4,
            "share": processes.share(processes.rank) == 0, "collect": processes.collect((processes.rank,)) == (0, 1)}
    same = {name: torch.tensor(value) for name, value in same.items()}
    save_file({"gradients": gradients, **told, **same}, f"{sys.argv[1]}/{argument}-{processes.rank}.safetensors")
processes.close()
"""


def named(task, micro_batch):
    return f"{task.__name__}-{micro_batch}"


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of two processes, which talk through gloo, found in every case; they are started once."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "two.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    names = [named(*case) for case in CASES]
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(folder / "two.py"), str(folder), *names], env=environment, check=True, timeout=300)
    return {name: [load_file(folder / f"{name}-{rank}.safetensors") for rank in (0, 1)] for name in names}


@pytest.mark.parametrize(("task", "micro_batch"), CASES)
def test_two_processes_have_the_loss_and_gradients_of_one_with_twice_the_batch(task, micro_batch, together):
    one, two = together[named(task, micro_batch)]
    alone = task()
    told = Passes(alone, Processes("cpu"), half=False).backward(Numbers().batch(1, 2), "main", 6)
    expected = torch.cat([p.grad.flatten() for p in alone.parameters()])
    for found in (one, two):
        torch.testing.assert_close(found["gradients"], expected, rtol=1e-5, atol=1e-7)
        assert {k: float(found[k]) for k in told} == pytest.approx(told, rel=1e-5)
        assert all(bool(found[name]) for name in ("any", "smallest", "share", "collect"))


def test_one_process_changes_nothing():
    processes, row = Processes("cpu"), torch.rand(2, 3)
    assert processes.gather(row) is row
    assert processes.mean({"loss": 0.5}) == {"loss": 0.5}
    assert (processes.any(True), processes.any(False), processes.smallest(3)) == (True, False, 3)
    assert (processes.share("run"), processes.collect((1, 2))) == ("run", (1, 2))
    assert (processes.count, processes.rank, processes.is_main) == (1, 0, True)


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ModelError, match="Device cuda"):
        Processes("cuda")
