"""Work on a CPU that releases the interpreter, shared among as many threads as PyTorch uses."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["share"]

Result = TypeVar("Result")


def share(tasks: int, work: Callable[[int, int], Result]) -> list[Result]:
    """Do tasks 0 to `tasks`, exclusively, in as many ranges as PyTorch has threads.

    Parameters
    ----------
    work
        Does tasks from its first argument to its second, exclusively.

    Returns
    -------
    list
        What `work` returned for each range, in order.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads == 1:
        return [work(0, tasks)]
    edges = [tasks * i // threads for i in range(threads + 1)]
    ahead = [_pool(threads, os.getpid()).submit(work, first, last) for first, last in pairwise(edges[1:])]
    return [work(0, edges[1]), *(future.result() for future in ahead)]


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001  a forked process has no threads yet
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="pcs-kernel")
