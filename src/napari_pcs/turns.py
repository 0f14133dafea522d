"""Which process takes which of many items: each one its share, then what the others have not begun."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from torch.distributed import TCPStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_pcs.training.processes import Processes

__all__ = ["Turns"]

T = TypeVar("T")
_PATIENCE = timedelta(minutes=5)


class Turns:
    """Items divided among processes, so that each is taken once and none waits while there is one left.

    The first process keeps the list of what is taken: it must not end before the others have.

    Parameters
    ----------
    processes
        That divide the work; all of them make one of these at the same time.
    """

    def __init__(self, processes: Processes) -> None:
        self._rank, self._count = processes.rank, processes.count
        self._taken: TCPStore | None = None
        if self._count > 1:
            host = os.environ.get("MASTER_ADDR", "localhost")
            if processes.is_main:
                self._taken = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
            port = processes.share(self._taken.port if self._taken else None)
            if self._taken is None:
                self._taken = TCPStore(host, port, is_master=False, timeout=_PATIENCE)

    def take(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """Yield items that no other process has, with their places; the sequence is the same in all."""
        own = range(self._rank, len(items), self._count)
        # From the end: what the others will come to last.
        rest = [n for n in reversed(range(len(items))) if n % self._count != self._rank]
        for n in (*own, *rest):
            if self._is_free(n):
                yield n, items[n]

    def _is_free(self, n: int) -> bool:
        return self._taken is None or self._taken.add(f"item {n}", 1) == 1
