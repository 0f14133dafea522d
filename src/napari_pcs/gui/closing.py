"""Something to be done when napari's window closes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QMainWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtWidgets import QWidget

__all__ = ["when_closed"]


class _Watch(QObject):
    """Sees that a window goes, before what is in it is gone.

    A window may refuse to close, so what counts is that it hides; minimising it is the doing of the
    window manager ("spontaneous").
    """

    def __init__(self, window: QMainWindow, then: Callable[[], None]) -> None:
        super().__init__(window)
        self._then = then
        window.installEventFilter(self)
        window.destroyed.connect(lambda: then())

    def eventFilter(self, _window: Any, event: Any) -> bool:  # noqa: N802  Qt's name
        if event.type() == QEvent.Type.Hide and not event.spontaneous():
            self._then()
        return False


def when_closed(widget: QWidget, then: Callable[[], None]) -> None:
    """Call a function when the main window around a widget closes; perhaps more than once."""
    window = widget
    while window is not None and not isinstance(window, QMainWindow):
        window = window.parentWidget()
    if window is not None:
        _Watch(window, then)
