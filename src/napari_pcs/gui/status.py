"""The strip below every panel: what is going on, how to stop it, what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from napari_pcs.anatomy import progress
from napari_pcs.gui.actions import Actions
from napari_pcs.gui.closing import when_closed
from napari_pcs.gui.panel import button, note
from napari_pcs.training import events

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_pcs.gui.state import Message

__all__ = ["StatusStrip"]

_FINENESS = 1000
"""Parts into which the bar divides a fraction."""
_ERROR = "color: #ff6b6b;"


class StatusStrip(QWidget):
    """One sentence, a progress bar and Cancel."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        actions = Actions(viewer)
        self._state, self._do = actions.state, actions
        self._watched = False
        self.sentence = note()
        self.sentence.setMinimumHeight(36)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(10)
        self.cancel = button("Cancel", actions.cancel)
        working = QWidget()
        row = QHBoxLayout(working)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.bar, stretch=1)
        row.addWidget(self.cancel)
        self._working = working
        column = QVBoxLayout(self)
        column.addWidget(self.sentence)
        column.addWidget(working)
        self._state.events.message.connect(self._say)
        self._state.events.job.connect(self._job_changed)
        self._state.events.event.connect(self._heard)
        self._say(self._state.message)
        self._job_changed(self._state.job)

    def showEvent(self, event: Any) -> None:  # noqa: N802  Qt's name
        """See to it that the worker ends with the window that this strip is in."""
        super().showEvent(event)
        self._do.have_worker()
        if not self._watched:
            self._watched = True
            when_closed(self, self._do.leave_worker)

    def _say(self, message: Message) -> None:
        self.sentence.setText(message.text)
        self.sentence.setStyleSheet(_ERROR if message.is_error else "")

    def _job_changed(self, job: Any) -> None:
        self._working.setVisible(job is not None)
        self.bar.setRange(0, 0)

    def _heard(self, event: Any) -> None:
        if isinstance(event, progress.Step):
            self.bar.setRange(0, _FINENESS)
            self.bar.setValue(round(event.fraction * _FINENESS))
            self._state.say(event.sentence)
        elif isinstance(event, events.Started):
            self.bar.setRange(0, event.steps)
            self.bar.setValue(0)
        elif isinstance(event, events.Step):
            self.bar.setValue(event.step)
        elif sentence := getattr(event, "sentence", None):
            self._state.say(sentence)
