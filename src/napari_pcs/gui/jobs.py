"""Long work off the GUI thread, whose events arrive on it.

napari's generator workers swallow `RuntimeError` (running out of GPU memory is one) and do not run
`finally` when they are quit, so a job here is a plain thread around a generator of events: every
exception reaches the panel, and cancelling is a token that the work itself checks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal

from napari_pcs.errors import CancelledError, PcsError
from napari_pcs.stop import StopToken

__all__ = ["Job", "Work"]

Work = Callable[[StopToken], Iterator[Any]]
"""Given a token to check, yields events; the last one is the result."""
_PATIENCE_MS = 1500
_log = logging.getLogger(__name__)

_unfinished: set[Job] = set()
"""Nobody need keep a job for its result to arrive."""


class Job(QObject):
    """One piece of work in its own thread.

    Signals
    -------
    event
        Every event that the work yields.
    done
        The last event, when the work ends by itself.
    failed
        A sentence for the user.
    cancelled
        The work has stopped because it was asked to.
    """

    event = Signal(object)
    done = Signal(object)
    failed = Signal(str)
    cancelled = Signal()
    _message = Signal(str, object)

    def __init__(self, title: str, work: Work, *, may_be_abandoned: bool = False) -> None:
        super().__init__()
        self.title = title
        self._work = work
        self._may_be_abandoned = may_be_abandoned
        self._ended = False
        self._stop = StopToken()
        self._thread = threading.Thread(target=self._run, name=f"napari-pcs: {title}", daemon=True)
        # Queued whatever thread emits: the slots of the panels must run on the GUI thread.
        self._message.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    def start(self) -> None:
        """Begin."""
        _unfinished.add(self)
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop; `cancelled` follows when it has, or `done` if it was faster.

        Some work cannot be interrupted, such as a library reading a file. If it may be abandoned,
        `cancelled` follows in any case, and what comes of it later is dropped.
        """
        self._stop.set()
        if self._may_be_abandoned:
            QTimer.singleShot(_PATIENCE_MS, self._abandon)

    def _abandon(self) -> None:
        self._deliver("cancelled", None)

    def wait(self, seconds: float) -> bool:
        """Block until the thread has ended; say whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        last = None
        try:
            for last in self._work(self._stop):
                self._send("event", last)
        except CancelledError:
            self._send("cancelled", None)
        except PcsError as error:
            self._send("failed", str(error))
        except Exception as error:  # noqa: BLE001  the one place where anything becomes a sentence
            _log.exception("%s failed", self.title)
            self._send(
                "failed",
                f"{self.title} failed unexpectedly ({type(error).__name__}: {error}). The log has the details.",
            )
        else:
            self._send("done", last)

    def _send(self, kind: str, content: Any) -> None:
        try:
            self._message.emit(kind, content)
        except RuntimeError:
            # The window was closed, and Qt's half of this object went with it.
            _log.info("%s ended after its window was closed", self.title)

    def _deliver(self, kind: str, content: Any) -> None:
        if self._ended:
            return
        self._ended = kind != "event"
        if self._ended:
            _unfinished.discard(self)
        if kind == "cancelled":
            self.cancelled.emit()
        else:
            getattr(self, kind).emit(content)
