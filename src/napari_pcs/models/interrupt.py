"""Stopping a network in the middle of one long pass."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.stop import StopToken

__all__ = ["interruptible"]


@contextmanager
def interruptible(network: nn.Module, stop: StopToken) -> Iterator[None]:
    """Check a stop token before every layer, forwards and backwards.

    A pass over a whole hemisphere takes many seconds on a CPU; a single layer takes a fraction of
    one. The token's `CancelledError` leaves the pass, and the hooks are removed in any case.
    """

    def before(_module: nn.Module, _inputs: Any) -> None:
        stop.check()

    def backward(_gradient: Tensor) -> None:
        stop.check()

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]

    leaves = [m for m in network.modules() if not list(m.children())]
    handles = [
        handle for m in leaves for handle in (m.register_forward_pre_hook(before), m.register_forward_hook(after))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
