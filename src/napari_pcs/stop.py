"""A token by which a user stops long work from another thread."""

from __future__ import annotations

import threading

from napari_pcs.errors import CancelledError

__all__ = ["StopToken"]


class StopToken:
    """Set once by whoever cancels, checked often by whoever works."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    def is_set(self) -> bool:
        """Say whether stopping was asked for."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `CancelledError` if stopping was asked for."""
        if self.is_set():
            msg = "Cancelled. Nothing was changed."
            raise CancelledError(msg)
