"""Ctrl-C as a wish: the first one lets the work end in order, a second one ends it at once."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["stopped_by_signals"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))
"""What asks a run to stop; SIGBREAK is how another process asks on Windows."""


@contextmanager
def stopped_by_signals(told: Callable[[str], None]) -> Iterator[StopToken]:
    """Yield a token that the first Ctrl-C or SIGTERM sets; `told` is called with the signal's name.

    Raises
    ------
    KeyboardInterrupt
        At the second one.
    """
    stop = StopToken()

    def ask(number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        told(signal.Signals(number).name)

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
