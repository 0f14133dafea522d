"""Report: every figure for the open case, and where the time went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtWidgets import QFileDialog, QPushButton

from napari_pcs.gui.panel import Panel, button, heading, note
from napari_pcs.gui.table import fill, table_widget

if TYPE_CHECKING:
    from napari_pcs.metrics.report import CaseReport

__all__ = ["ReportPanel"]

_FIGURES = {
    "dice": "Dice",
    "nsd_1mm": "NSD at 1 mm",
    "hd_mm": "HD mm",
    "hd95_mm": "HD95 mm",
    "assd_mm": "ASSD mm",
    "cldice": "clDice",
}
_STAGES = ("read", "prepare", "network", "postprocess", "draw")


class ReportPanel(Panel):
    """Agreement of prediction and correction, length, class, time and memory."""

    title: ClassVar[str] = "Report"

    def build(self) -> None:
        self.run = button("Measure", self.do.make_report, "Compare the prediction with the correction or reference")
        self.save = button("Save table...", self._save)
        self.column.addWidget(self.run)
        self.against = note("Compares the prediction with the correction, the reference, or the tissue's own skeleton.")
        self.column.addWidget(self.against)
        self.figures = table_widget(("", "skeleton", "PCS"))
        self.column.addWidget(self.figures)
        self.column.addWidget(heading("PCS length and class"))
        self.lengths = table_widget(("", "mm", "class"))
        self.column.addWidget(self.lengths)
        self.column.addWidget(heading("Time and memory"))
        self.timing = table_widget(("stage", "s"))
        self.column.addWidget(self.timing)
        self.memory = note()
        self.column.addWidget(self.memory)
        self.column.addWidget(self.save)
        self.state.events.report.connect(self._show)
        for signal in (self.state.events.timings_s, self.state.events.prediction):
            signal.connect(self._show_timing)
        self._show(self.state.report)
        self._show_timing()

    def busy_buttons(self) -> list[QPushButton]:
        return [self.run]

    def _show(self, report: CaseReport | None) -> None:
        self.save.setEnabled(report is not None)
        if report is None:
            fill(self.figures, [])
            fill(self.lengths, [])
            return
        self.against.setText(f"{report.case}: prediction against the <b>{self.state.report_against}</b>.")
        labels = [report.labels.get(name) for name in ("skeleton", "pcs")]
        fill(self.figures, [(t, *(getattr(m, f) if m else None for m in labels)) for f, t in _FIGURES.items()])
        rows: list[tuple[str | float | None, ...]] = [("predicted", report.length_mm, report.pcs_class)]
        if report.reference_length_mm is not None:
            rows.append((self.state.report_against, report.reference_length_mm, report.reference_class))
            rows.append(("difference", report.length_error_mm, ""))
        fill(self.lengths, rows)

    def _show_timing(self, _value: Any = None) -> None:
        timings = self.state.timings_s
        fill(self.timing, [(stage, timings.get(stage)) for stage in _STAGES])
        prediction = self.state.prediction
        if prediction is None:
            self.memory.setText("")
            return
        kind = "on the device" if prediction.device == "cuda" else "resident"
        peak = f"Peak memory {prediction.peak_memory_mb:.0f} MB ({kind}, {prediction.device})"
        self.memory.setText(f"Network: {prediction.route}.<br>{peak}")

    def _save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save the table", "report.tsv", "Tables (*.tsv)")
        if name:
            self.do.save_table(Path(name))
