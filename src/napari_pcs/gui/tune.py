"""Tune: train on the saved corrections and compare before with after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pyqtgraph as pg

from napari_pcs.gui.form import Form
from napari_pcs.gui.panel import Panel, button, heading, note
from napari_pcs.gui.table import fill, table_widget
from napari_pcs.metrics.report import summarise
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Preparing, Started, Step, Tuned

if TYPE_CHECKING:
    from qtpy.QtWidgets import QPushButton, QTableWidget

    from napari_pcs.session import Session

__all__ = ["TunePanel"]

_LOSS, _DICE, _PCS = "#e9c46a", "#4cc9f0", "#f72585"
_NO_HELD_OUT = "There is no held-out case: corrections of a second person are needed to judge a model."


class TunePanel(Panel):
    """Settings, a live curve, and the comparison on held-out corrections."""

    title: ClassVar[str] = "Tune"

    def build(self) -> None:
        self.form = Form(TuneConfig, ("strategy", "epochs", "learning_rate", "held_out_share"))
        self.column.addWidget(self.form)
        self.run = button("Tune on saved corrections", lambda: self.do.tune(self.form.value()))
        self.column.addWidget(self.run)
        self.cases = note()
        self.column.addWidget(self.cases)
        self.plot = pg.PlotWidget(background=None)
        self.plot.setMinimumHeight(150)
        self.plot.setLabel("bottom", "step")
        self.plot.addLegend(offset=(-5, 5))
        self.curves = {
            "loss": self.plot.plot(pen=pg.mkPen(_LOSS, width=2), symbol="o", symbolSize=4, name="loss"),
            "dice_skeleton": self.plot.plot(pen=pg.mkPen(_DICE, width=2), name="Dice skeleton"),
            "dice_pcs": self.plot.plot(pen=pg.mkPen(_PCS, width=2), name="Dice PCS"),
        }
        self.column.addWidget(self.plot)
        self.progress = note()
        self.column.addWidget(self.progress)
        self.column.addWidget(heading("Held-out corrections, before and after"))
        self.table: QTableWidget = table_widget(("", "before", "after"))
        self.column.addWidget(self.table)
        self.verdict = note()
        self.column.addWidget(self.verdict)
        self._steps: list[Step] = []
        self._total = 0
        self.state.events.event.connect(self._heard)
        for signal in (self.state.events.session, self.state.events.message):
            signal.connect(self._count)
        self._count()

    def busy_buttons(self) -> list[QPushButton]:
        return [self.run]

    def _count(self, _value: Any = None) -> None:
        session: Session | None = self.state.session
        corrected = session.corrected_keys() if session else []
        people = len({key.subject for key in corrected})
        self.cases.setText(f"{len(corrected)} corrected hemispheres of {people} people in this session.")

    def _heard(self, event: Any) -> None:
        match event:
            case Started():
                self._steps, self._total = [], event.steps
                share = event.trainable_parameters / event.total_parameters
                self.verdict.setText("" if event.held_out else _NO_HELD_OUT)
                self.progress.setText(f"Training {event.trainable_parameters:,} weights ({share:.1%})")
            case Step():
                self._steps.append(event)
                self._draw()
            case Preparing():
                self.progress.setText(event.sentence)
            case Tuned():
                self._compare(event)

    def _draw(self) -> None:
        for name, curve in self.curves.items():
            values = [(s.step, s.loss if name == "loss" else s.figures.get(name)) for s in self._steps]
            points = [(x, y) for x, y in values if y is not None]
            curve.setData([x for x, _ in points], [y for _, y in points])
        mean = sum(s.seconds for s in self._steps) / len(self._steps)
        left = (self._total - len(self._steps)) * mean
        self.progress.setText(f"Step {len(self._steps)} of {self._total}, about {left:.0f} s left")

    def _compare(self, event: Tuned) -> None:
        self.progress.setText(f"{event.model.name} in {event.seconds_total:.0f} s")
        if not event.held_out_cases:
            self.verdict.setText(_NO_HELD_OUT)
            return
        before = summarise(event.before).mean if event.before else None  # a pre-trained model predicts nothing
        after = summarise(event.after).mean if event.after else None
        rows = []
        for label, name in (("skeleton", "Skeleton"), ("pcs", "PCS")):
            for figure, title in (("dice", "Dice"), ("hd95_mm", "HD95 mm")):
                values = [s[label][figure] if s else None for s in (before, after)]  # type: ignore[index]
                rows.append((f"{name} {title}", *values))
        fill(self.table, rows)
        self.verdict.setText("Judged on " + ", ".join(event.held_out_cases) + ", which it was not trained on.")
