import os
import threading

import pytest
import torch

from napari_pcs.models.threads import share


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("tasks", [1, 3, 5, 17])
def test_every_task_is_done_once_and_results_are_in_order(threads, tasks):
    ranges = share(tasks, lambda first, last: (first, last))
    assert [task for first, last in ranges for task in range(first, last)] == list(range(tasks))
    assert len(ranges) == min(threads, tasks)


def test_pieces_are_done_at_the_same_time():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=30)
    try:
        assert len(share(2, lambda *_edges: meeting.wait())) == 2
    finally:
        torch.set_num_threads(before)


def test_what_a_piece_raises_reaches_the_caller(threads):
    def work(first, last):
        if last == 7:
            raise ValueError(last)

    with pytest.raises(ValueError, match="7"):
        share(7, work)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_that_was_forked_makes_threads_of_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        share(2, lambda *_edges: None)
        child = os.fork()
        if child == 0:
            os._exit(0 if share(2, lambda *edges: edges[0]) == [0, 1] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)
