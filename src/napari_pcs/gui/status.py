"""The strip below every panel: what is going on, how to stop it, what went wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from napari_pcs.anatomy import progress
from napari_pcs.gui.actions import Actions
from napari_pcs.gui.closing import when_closed
from napari_pcs.gui.panel import button, note
from napari_pcs.gui.panel import row as made_row
from napari_pcs.gui.progress import Progress
from napari_pcs.training import events

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_pcs.gui.state import Message

__all__ = ["StatusStrip"]

_FINENESS = 1000
"""Parts into which the bar divides a fraction."""
_TWO_LINES = 36
_CANCEL = "Ends within two seconds; the best weights so far are kept"
_ERROR = "color: #ff6b6b;"


class StatusStrip(QWidget):
    """One sentence, a progress bar and Cancel."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        actions = Actions(viewer)
        self._state, self._do = actions.state, actions
        self._watched = False
        self.sentence = note()
        self.sentence.setMinimumHeight(_TWO_LINES)
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
        self.tuning = note()
        self.tuning.setMinimumHeight(_TWO_LINES)
        self.stop_tuning = button("Cancel", actions.cancel_tuning, _CANCEL)
        self._tuning_row = made_row(self.tuning, self.stop_tuning)
        self._progress = Progress(self._state.tuning)
        column = QVBoxLayout(self)
        column.addWidget(self.sentence)
        column.addWidget(working)
        column.addWidget(self._tuning_row)
        self._state.events.message.connect(self._say)
        self._state.events.job.connect(self._job_changed)
        self._state.events.event.connect(self._heard)
        self._state.events.tuning_job.connect(self._tuning_changed)
        self._state.events.tuning_event.connect(self._tuning_heard)
        self._say(self._state.message)
        self._job_changed(self._state.job)
        self._tuning_changed(self._state.tuning_job)

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

    def _tuning_changed(self, job: Any) -> None:
        self._tuning_row.setVisible(job is not None)
        if job is not None:
            self._progress = Progress(self._state.tuning)
            self.tuning.setText(job.title)

    def _tuning_heard(self, event: Any) -> None:
        job = self._state.tuning_job
        if job is not None and isinstance(event, events.Event):
            self._progress.hear(event, time.monotonic())
            self.tuning.setText(f"{job.title}: {self._progress.sentence}")

    def _heard(self, event: Any) -> None:
        if isinstance(event, progress.Step):
            self.bar.setRange(0, _FINENESS)
            self.bar.setValue(round(event.fraction * _FINENESS))
            self._state.say(event.sentence)
        elif sentence := getattr(event, "sentence", None):
            self._state.say(sentence)
