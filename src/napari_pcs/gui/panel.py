"""What all panels share: a viewer's actions and state, and a few ways to lay out controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_pcs.gui.actions import Actions

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.viewer import Viewer

__all__ = ["Panel", "button", "heading", "note", "row"]


class Panel(QWidget):
    """A panel of the workspace: builds controls, calls actions, listens to state."""

    title: ClassVar[str]

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.do = Actions(viewer)
        self.state = self.do.state
        self.column = QVBoxLayout(self)
        self.column.setSpacing(5)
        self.build()
        self.column.addStretch(1)
        self.state.events.job.connect(self._job_changed)
        self._job_changed(self.state.job)

    def build(self) -> None:
        """Add the panel's controls to `self.column` and connect them."""
        raise NotImplementedError

    def busy_buttons(self) -> list[QPushButton]:
        """Return the buttons that wait while a job runs."""
        return []

    def _job_changed(self, job: object) -> None:
        for control in self.busy_buttons():
            control.setEnabled(job is None)


def button(text: str, clicked: Callable[[], object], tip: str = "") -> QPushButton:
    """Return a button that calls a function without arguments."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.clicked.connect(lambda: clicked())
    return made


def heading(text: str) -> QLabel:
    """Return a small heading."""
    label = QLabel(f"<b>{text}</b>")
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
    label.setContentsMargins(0, 8, 0, 0)
    return label


def note(text: str = "") -> QLabel:
    """Return a line of text that wraps and can be copied."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def row(*widgets: QWidget) -> QWidget:
    """Return widgets side by side, the first one as wide as there is room."""
    made = QWidget()
    layout = QHBoxLayout(made)
    layout.setContentsMargins(0, 0, 0, 0)
    for i, widget in enumerate(widgets):
        layout.addWidget(widget, stretch=1 if i == 0 else 0)
    return made
