"""The worker of a viewer: the process that predicts and tunes, so that the window never waits for a network."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from napari_pcs.worker.client import Worker

if TYPE_CHECKING:
    from napari_pcs.gui.state import State

__all__ = ["leave_worker", "models_of", "worker_of"]


def worker_of(state: State) -> Worker:
    """Return the worker of a viewer; its process starts with the first request."""
    if state.worker is None:
        state.worker = Worker()
    return state.worker


def models_of(state: State) -> tuple[str, ...]:
    """Return the folders in which the worker looks for models, beside the shipped ones."""
    return (str(state.session.models),) if state.session is not None else ()


def leave_worker(state: State) -> None:
    """Let the worker end behind a viewer that closes; nobody waits for it."""
    worker, state.worker = state.worker, None
    if worker is not None:
        threading.Thread(target=worker.close, name="napari-pcs: leaving the worker").start()
