"""Tune: train on the saved corrections and compare before with after."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtCore import QSignalBlocker
from qtpy.QtGui import QIcon
from superqt import QCollapsible

from napari_pcs.gui.form import Form
from napari_pcs.gui.panel import Panel, button, heading, note, row
from napari_pcs.gui.progress import Progress
from napari_pcs.gui.radios import Radios
from napari_pcs.gui.table import fill, table_widget
from napari_pcs.gui.tunecurves import TuneCurves
from napari_pcs.training.config import TuneConfig, usual_learning_rate
from napari_pcs.training.events import Event, Tuned

if TYPE_CHECKING:
    from qtpy.QtWidgets import QTableWidget

    from napari_pcs.gui.tuning import TuneRun
    from napari_pcs.gui.verdict import Figure, Verdict

__all__ = ["TunePanel"]

_STRATEGIES = {
    "top": ("Top: the last 10 %", "The last tenth of the weights and the heads. The fastest; begin with it."),
    "decoder": ("Decoder", "The whole way back up and the heads. Slower; for folds that are outlined wrongly."),
    "lora": ("LoRA: low-rank pairs", "Small additions to the encoder. What is saved is an adapter of about 200 kB."),
    "full": ("Full: everything", "All weights. Slow, and forgets most easily what it knew."),
    "scratch": ("Scratch", "All weights, from random ones. Only for hundreds of corrected hemispheres."),
}
_BUDGETS = {"30s": "about 30 s", "2min": "about 2 minutes", "best": "until it stops improving"}
_MORE = (
    *("learning_rate", "batch_size", "patch", "patches", "views"),
    *("rehearsal_share", "held_out_share", "patience", "lora"),
)
_FOLDED, _UNFOLDED = "▸ More", "▾ More"
_NO_HELD_OUT = "There is no held-out case: corrections of a second person are needed to judge a model."


class TunePanel(Panel):
    """Settings, live curves, and the comparison on held-out corrections."""

    title: ClassVar[str] = "Tune"

    def build(self) -> None:
        self.about = note()
        self.column.addWidget(self.about)
        self._build_settings()
        self.run = button("Tune on saved corrections", lambda: self.do.tune(self.config()))
        self.column.addWidget(self.run)
        self.curves = TuneCurves()
        self.column.addWidget(self.curves.legend)
        self.column.addWidget(self.curves)
        self.progress = note()
        self.column.addWidget(self.progress)
        self.heading = heading("Held-out corrections, before and after")
        self.column.addWidget(self.heading)
        self.verdict = note()
        self.column.addWidget(self.verdict)
        self.use = button("Use the new model", lambda: self._choose(new=True))
        self.keep = button("Keep the old one", lambda: self._choose(new=False), "Both stay on the disk")
        self.choice = row(self.use, self.keep)
        self.column.addWidget(self.choice)
        self.table: QTableWidget = table_widget(("", "before", "after"))
        self.column.addWidget(self.table)
        self.state.events.tuning_event.connect(self._heard)
        self.state.events.tuning_job.connect(self._tuning_changed)
        self.state.events.tune_run.connect(self._run_changed)
        for signal in ("listing", "model", "device"):
            getattr(self.state.events, signal).connect(self._describe)
        self._progress = Progress(self.config())
        self._run_changed(self.state.tune_run)
        self._tuning_changed(self.state.tuning_job)
        self._changed()

    def _build_settings(self) -> None:
        self.form = Form(
            TuneConfig, ("strategy",), {"strategy": {name: title for name, (title, _) in _STRATEGIES.items()}}
        )
        self._strategy: str = self.form.values()["strategy"]
        self.strategy_note = note()
        self.budget = Radios(_BUDGETS)
        self.budget.setToolTip(TuneConfig.model_fields["budget"].description or "")
        self.more = Form(TuneConfig, _MORE)
        self.collapsed = QCollapsible(_FOLDED, expandedIcon=QIcon(), collapsedIcon=QIcon())
        self.collapsed.toggled.connect(lambda shown: self.collapsed.setText(_UNFOLDED if shown else _FOLDED))
        self.collapsed.setDuration(0)
        self.collapsed.addWidget(self.more)
        for widget in (self.form, self.strategy_note, self.budget, self.collapsed):
            self.column.addWidget(widget)
        for control in (self.form, self.budget, self.more):
            control.changed.connect(self._changed)

    def config(self) -> TuneConfig:
        """Return the settings as the controls have them."""
        return TuneConfig(**self.form.values(), budget=self.budget.value(), **self.more.values())

    def _tuning_changed(self, job: Any) -> None:
        self.run.setEnabled(job is None)

    def _changed(self) -> None:
        config = self._with_usual_rate(self.config())
        self.strategy_note.setText(_STRATEGIES[config.strategy][1])
        self.more.show_field("lora", config.strategy == "lora")
        self.state.tuning = config
        self._describe()

    def _with_usual_rate(self, config: TuneConfig) -> TuneConfig:
        """Follow the strategy with the learning rate, unless somebody has chosen one."""
        before, now = (usual_learning_rate(strategy) for strategy in (self._strategy, config.strategy))
        self._strategy = config.strategy
        if config.learning_rate != before or before == now:
            return config
        with QSignalBlocker(self.more):
            self.more.set("learning_rate", now)
        return config.model_copy(update={"learning_rate": now})

    def _describe(self, _value: Any = None) -> None:
        """Say what will be tuned, on what and where."""
        corrected = self.state.listing.corrected
        people = len({key.subject for key in corrected})
        device = "the fastest device" if self.state.device == "auto" else self.state.device
        self.about.setText(
            f"Tunes <b>{self.state.model}</b> on {device}; {len(corrected)} corrected hemispheres of {people} people."
        )

    def _heard(self, event: Any) -> None:
        # Other jobs tell of other things; a tuning tells of itself.
        run = self.state.tune_run
        if run is None or run.is_over or not isinstance(event, Event):
            return
        self._progress.hear(event, time.monotonic())
        self._draw()

    def _run_changed(self, run: TuneRun | None) -> None:
        if run is not None and not run.is_over:
            self._progress = Progress(run.config)
            self._draw()
        for shown in (self.curves, self.curves.legend, self.progress):
            shown.setVisible(run is not None)
        result = run.result if run is not None else None
        verdict = run.verdict if run is not None else None
        for widget in (self.heading, self.table):
            widget.setVisible(verdict is not None and bool(verdict.figures))
        self.verdict.setVisible(result is not None)
        self.choice.setVisible(result is not None)
        if result is not None:
            self._compare(result, verdict)
        self._mark_choice()

    def _draw(self) -> None:
        self.curves.show_progress(self._progress)
        self.progress.setText(self._progress.sentence)

    def _compare(self, result: Tuned, verdict: Verdict | None) -> None:
        if not result.held_out_cases:
            self.verdict.setText(_NO_HELD_OUT)
        elif verdict is not None:
            self.verdict.setText(verdict.sentence)
            self.verdict.setToolTip("Judged on " + ", ".join(result.held_out_cases) + ", which it was not trained on.")
            fill(self.table, [_row(figure) for figure in verdict.figures])

    def _choose(self, *, new: bool) -> None:
        run = self.state.tune_run
        if run is not None and run.result is not None:
            self.do.choose_model(run.result.model.name if new else run.base)
        self._mark_choice()

    def _mark_choice(self) -> None:
        """Let the button of the model that is chosen already rest."""
        run = self.state.tune_run
        if run is not None and run.result is not None:
            self.use.setEnabled(self.state.model != run.result.model.name)
            self.keep.setEnabled(self.state.model != run.base)


def _row(figure: Figure) -> tuple[str | float | None, ...]:
    name = figure.name[:1].upper() + figure.name[1:] + (f" ({figure.unit})" if figure.unit else "")
    return (name, figure.before, figure.after)
