"""The part of the Load panel that says what is known of AC and PC, and sets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_pcs.commissures import FrameSource
from napari_pcs.gui.commissures import LANDMARKS
from napari_pcs.gui.panel import button, heading, note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_pcs.case import Case
    from napari_pcs.commissures import Point
    from napari_pcs.gui.actions import Actions

__all__ = ["LandmarksGroup"]

_SOURCES = {
    FrameSource.FILE: "from the file",
    FrameSource.REGISTRATION: "from the registration",
    FrameSource.CLICKS: "from your clicks",
    FrameSource.WORLD: "from the world coordinates",
}


class LandmarksGroup(QWidget):
    """A line and two buttons."""

    def __init__(self, actions: Actions) -> None:
        super().__init__()
        self._do, self._state = actions, actions.state
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(heading("AC and PC"))
        self.line = note()
        column.addWidget(self.line)
        buttons = QWidget()
        row = QHBoxLayout(buttons)
        row.setContentsMargins(0, 0, 0, 0)
        self.buttons = {
            name: button(f"Set {name}", lambda name=name: actions.ask_for(name), f"Then click the {words} in the image")  # type: ignore[misc]
            for name, words in LANDMARKS.items()
        }
        for one in self.buttons.values():
            one.setCheckable(True)
            row.addWidget(one)
        column.addWidget(buttons)
        # The canvas hears Esc when the mouse was there; this is for when the buttons have the focus.
        self._escape = QShortcut(QKeySequence("Esc"), self)
        self._escape.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        self._escape.activated.connect(actions.stop_asking)
        for signal in ("case", "clicked", "asked_for", "job", "message"):
            getattr(self._state.events, signal).connect(self._refresh)
        self._refresh()

    def _refresh(self, _value: Any = None) -> None:
        state = self._state
        self.line.setText(_sentence(state.case, state.clicked))
        for name, one in self.buttons.items():
            one.setChecked(state.asked_for == name)
            one.setEnabled(state.case is not None and state.job is None)


def _sentence(case: Case | None, clicked: Mapping[str, Point]) -> str:
    if case is None:
        return "Open a hemisphere first."
    frame = case.commissures
    if frame is not None and not set(clicked.items()) - {("AC", frame.ac_mm), ("PC", frame.pc_mm)}:
        detail = f" ({frame.detail})" if frame.detail else ""
        return f"{_SOURCES[frame.source].capitalize()}{detail}: AC {_mm(frame.ac_mm)}, PC {_mm(frame.pc_mm)} mm."
    if clicked:
        return "Set so far: " + ", ".join(f"{name} {_mm(point)}" for name, point in clicked.items()) + " mm."
    return "Unknown: click them, on the midline."


def _mm(point: Point) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in point) + ")"
