"""Which process takes which of many items: each one its share, then what the others have not begun."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from torch.distributed import Store  # type: ignore[attr-defined]

    from napari_pcs.training.processes import Processes

__all__ = ["Turns"]

T = TypeVar("T")
_PATIENCE = timedelta(minutes=5)


class Turns:
    """Items divided among processes, so that each is taken once and none waits while there is one left.

    A context: it ends when all processes have come to its end, for the first one keeps the list of
    what is taken.

    Parameters
    ----------
    processes
        That divide the work; all of them make one of these at the same time.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._rank, self._count = processes.rank, processes.count
        self._taken: Store | None = None
        if self._count > 1:
            self._taken = _shared_store(processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._count > 1:
            self._processes.wait()

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


def _shared_store(processes: Processes) -> Store:
    """Return numbers under names that all processes see; the first one holds them."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported where PyTorch has it at all

    host = os.environ.get("MASTER_ADDR", "localhost")
    if not processes.is_main:
        return TCPStore(host, processes.share(None), is_master=False, timeout=_PATIENCE)
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
    processes.share(store.port)
    return store
