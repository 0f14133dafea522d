"""Correct: paint, erase and fill the labels, and save them with provenance."""

from __future__ import annotations

import getpass
from typing import Any, ClassVar

from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QHBoxLayout, QLineEdit, QPushButton, QWidget

from napari_pcs.case import LabelRole
from napari_pcs.gui.panel import Panel, button, heading, note
from napari_pcs.labels import LABELS, Label

__all__ = ["CorrectPanel"]

_TOOLS = {"Paint": "paint", "Erase": "erase", "Fill": "fill", "Move": "pan_zoom"}
_HINT = "Undo Ctrl+Z, redo Ctrl+Shift+Z. Brush size [ and ]. The prediction stays locked below."
_PROPOSED = "<br>The labels began as a proposal by rule, which nobody has looked at."


class CorrectPanel(Panel):
    """Tools, live length and class, and saving."""

    title: ClassVar[str] = "Correct"

    def build(self) -> None:
        self.label = QComboBox()
        for entry in LABELS[1:]:
            self.label.addItem(entry.name, entry.label)
        self.label.setCurrentIndex(int(Label.PCS) - 1)
        self.label.currentIndexChanged.connect(lambda: self.use("paint"))
        tools = QWidget()
        row = QHBoxLayout(tools)
        row.setContentsMargins(0, 0, 0, 0)
        for name, mode in _TOOLS.items():
            row.addWidget(button(name, lambda mode=mode: self.use(mode)))  # type: ignore[misc]
        self.column.addWidget(tools)
        form = QWidget()
        layout = QFormLayout(form)
        layout.setContentsMargins(0, 0, 0, 0)
        self.editor = QLineEdit(getpass.getuser())
        self.editor.setToolTip("Written beside every correction")
        layout.addRow("Label", self.label)
        layout.addRow("Editor", self.editor)
        self.column.addWidget(form)
        self.column.addWidget(note(_HINT))
        self.column.addWidget(heading("As labelled now"))
        self.live = note("Nothing to correct yet: predict first.")
        self.column.addWidget(self.live)
        self.partly = QCheckBox("Partly done")
        self.partly.setToolTip("What nobody has looked at is not learnt from")
        self.partly.toggled.connect(self._tick)
        self.column.addWidget(self.partly)
        self.save = button("Save correction", lambda: self.do.save_correction(self.editor.text()))
        self.restart = button("Start again from the prediction", self.do.restart_from_prediction, "Can be undone")
        self.column.addWidget(self.save)
        self.column.addWidget(self.restart)
        self.next = button("Open next case", self.do.open_next, "The next one of the session that nobody has corrected")
        self.column.addWidget(self.next)
        self.state.events.listing.connect(self._show_next)
        self.state.events.session.connect(self._show_next)
        self._show_next()
        for name in ("length_mm", "pcs_class", "dirty", "case", "prediction", "started_from", "partly_done", "looked"):
            getattr(self.state.events, name).connect(self._show)
        self._show()

    def busy_buttons(self) -> list[QPushButton]:
        return [self.save, self.next]

    def _job_changed(self, job: object) -> None:
        super()._job_changed(job)
        self._show_next()

    def _show_next(self, _value: Any = None) -> None:
        """Offer the next case only where there is one."""
        self.next.setEnabled(self.state.job is None and self.do.next_case is not None)

    def use(self, mode: str) -> None:
        """Take a tool in hand: paint, erase, fill or pan_zoom, with the chosen label."""
        self.do.use_tool(mode, Label(self.label.currentData()))

    def _tick(self, partly: bool) -> None:
        self.state.partly_done = partly

    def _show(self, _value: Any = None) -> None:
        length = self.state.length_mm
        self.partly.setEnabled(self.do.has_labels)
        self.partly.setChecked(self.state.partly_done)
        self.restart.setEnabled(self.do.has_labels and self.state.prediction is not None)
        if not self.do.has_labels:
            self.live.setText("Nothing to correct yet: predict first.")
            return
        saved = "not saved" if self.state.dirty else "no unsaved changes"
        case = self.state.case
        unknown = "PCS not measured: AC and PC unknown" if case is None or case.commissures is None else "Measuring..."
        measured = unknown if length is None else f"PCS {self.state.pcs_class}"
        began = _PROPOSED if self.state.started_from is LabelRole.PROPOSED and not self._has_correction else ""
        live = f"<b>{measured}</b>{'' if length is None else f', {length:.1f} mm'}; {saved}"
        self.live.setText(live + began + self._seen)

    @property
    def _seen(self) -> str:
        return f"<br>Partly done: {self.do.looked_words()}." if self.state.partly_done else ""

    @property
    def _has_correction(self) -> bool:
        return self.state.case is not None and LabelRole.CORRECTED in self.state.case.labels
