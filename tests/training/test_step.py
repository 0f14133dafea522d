import pytest
import torch
from toys import Apart, Line, Numbers

from napari_pcs.training.processes import Processes
from napari_pcs.training.step import OutOfMemoryError, Passes, is_out_of_memory


def gradients(task, micro_batch, size=6):
    batch = Numbers(size=size).batch(1, 2)
    told = Passes(task, Processes("cpu"), half=False).backward(batch, "main", micro_batch)
    return told, torch.cat([p.grad.flatten() for p in task.parameters()])


@pytest.mark.parametrize("task", [Line, Apart])
@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_pieces_of_a_batch_give_its_loss_figures_and_gradients(task, micro_batch):
    whole, expected = gradients(task(), 6)
    pieces, found = gradients(task(), micro_batch)
    assert pieces == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_loss_that_compares_is_not_the_mean_of_its_pieces():
    """So the test above would fail if pieces were compared one by one."""
    batch, passes = Numbers().batch(1, 2), Passes(Apart(), Processes("cpu"), half=False)
    halves = [{k: v[half] for k, v in batch.items()} for half in (slice(0, 3), slice(3, 6))]
    apart = sum(passes.judge(half, "main", 6)["near"] for half in halves) / 2
    assert passes.judge(batch, "main", 6)["near"] != pytest.approx(apart, rel=1e-3)


@pytest.mark.parametrize("micro_batch", [2, 6])
def test_judging_tells_the_same_and_leaves_no_gradient(micro_batch):
    task = Apart()
    judged = Passes(task, Processes("cpu"), half=False).judge(Numbers().batch(1, 2), "main", micro_batch)
    assert all(p.grad is None for p in task.parameters())
    assert judged == pytest.approx(gradients(Apart(), 6)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_running_out_of_memory_becomes_advice():
    class Hungry(Line):
        def forward(self, batch, turn="main"):
            raise MemoryError

    with pytest.raises(OutOfMemoryError, match="smaller batch"):
        gradients(Hungry(), 6)
