"""Pre-train: learn from hemispheres that nobody has labelled, and watch it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QProgressBar,
    QSpinBox,
    QStyle,
    QWidget,
)

from napari_pcs.gui.closing import when_closed
from napari_pcs.gui.curves import LossCurves
from napari_pcs.gui.panel import Panel, button, heading, note, row
from napari_pcs.gui.pretraining import Stage, ask_choices, stopped_runs
from napari_pcs.models.folders import list_models
from napari_pcs.training.pace import clock
from napari_pcs.training.words import resources, sentence

if TYPE_CHECKING:
    from napari_pcs.gui.jobs import Job
    from napari_pcs.gui.watched import Watched
    from napari_pcs.training.choices import Choices

__all__ = ["PretrainPanel"]

_NOTHING = "nothing: random weights"
_LISTING = "listing..."
_PLAINEST = "reconstruction"
"""What a newcomer begins with."""
_MOST_EPOCHS, _LARGEST_BATCH = 100_000, 4096
_SHOWN_SKIPPED = 20


class PretrainPanel(Panel):
    """Settings of a stage, its curve, its resources and what it reconstructs."""

    title: ClassVar[str] = "Pre-train"

    def build(self) -> None:
        self._asked: Job | None = None
        self._models: dict[str, Path] = {}
        self._runs: list[Path] = []
        self.column.addWidget(self._form())
        self.run = button("Pre-train", self._start, "In a process of its own: you can go on working meanwhile")
        self.stop = button("Stop", self.do.stop_pretraining, "Saves a checkpoint and ends; it can be gone on with")
        self.column.addWidget(row(self.run, self.stop))
        self.stopped = QComboBox()
        _let_shrink(self.stopped)
        self.stopped.setToolTip("Runs of this session that were stopped before they were complete")
        self.resume = button("Go on", self._resume, "Go on with this run from its last checkpoint")
        self._resuming = row(self.stopped, self.resume)
        self.column.addWidget(self._resuming)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(10)
        self.column.addWidget(self.bar)
        self.progress = note()
        self.column.addWidget(self.progress)
        self.curves = LossCurves()
        self.column.addWidget(self.curves)
        self.resources = note()
        self.column.addWidget(self.resources)
        self.skipped = note()
        self.column.addWidget(self.skipped)
        self.column.addWidget(heading("Reconstruction"))
        self.shows = QCheckBox("show as layers")
        self.shows.setChecked(self.state.show_reconstructions)
        self.shows.toggled.connect(self._toggle)
        self.look = button("Bring into view", self.do.look_at_reconstruction)
        self.column.addWidget(row(self.shows, self.look))
        self.picture = note()
        self.column.addWidget(self.picture)
        self.state.events.pretraining.connect(self._running_changed)
        self.state.events.watched.connect(self._show)
        self.state.events.session.connect(self._session_changed)
        self.state.events.model.connect(self._list)
        self._session_changed(self.state.session)
        self._running_changed(self.state.pretraining)
        self._show(self.state.watched)

    def showEvent(self, event: Any) -> None:  # noqa: N802  Qt's name
        """Ask for the objectives when somebody first looks: that takes seconds, in another process."""
        super().showEvent(event)
        if self._asked is None:
            self._asked = ask_choices(self._list_choices, self._choices_failed)

    def _form(self) -> QWidget:
        form = QWidget()
        layout = QFormLayout(form)
        layout.setContentsMargins(0, 0, 0, 0)
        self.objective, self.begin_from, self.recipe = QComboBox(), QComboBox(), QComboBox()
        for box in (self.objective, self.begin_from, self.recipe):
            _let_shrink(box)
        self.objective.addItem(_LISTING)
        self.begin_from.setToolTip("A model to begin from keeps its network; the stage is added to its lineage")
        self.recipe.setToolTip("Network, patches and all settings by name")
        self.data, self.name = QLineEdit(), QLineEdit()
        self.data.setPlaceholderText("folder of hemispheres")
        self.data.setToolTip("Hemispheres to learn from; labels are not needed. Default: the open session")
        self.name.setPlaceholderText("made from the objective")
        self.epochs, self.batch = _spin(_MOST_EPOCHS), _spin(_LARGEST_BATCH)
        self.epochs.setToolTip("Passes over the hemispheres; by default as many as the recipe says")
        self.batch.setToolTip("Samples per step; too many for the memory are looked at in turns")
        browse = button("", self._browse, "Choose a folder")
        browse.setIcon(self.style().standardIcon(QStyle.StandardPixmap.SP_DirIcon))
        browse.setMaximumWidth(32)
        layout.addRow("Objective", self.objective)
        layout.addRow("Begin from", self.begin_from)
        layout.addRow("Hemispheres", row(self.data, browse))
        layout.addRow("Recipe", self.recipe)
        layout.addRow("Epochs", self.epochs)
        layout.addRow("Batch", self.batch)
        layout.addRow("New name", self.name)
        layout.setRowVisible(self.recipe, False)  # until there are any
        self._layout = layout
        return form

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Choose a folder of hemispheres", self.data.text())
        self.data.setText(folder or self.data.text())

    def _list_choices(self, choices: Choices) -> None:
        for box, known in ((self.objective, choices.objectives), (self.recipe, choices.recipes)):
            box.clear()
            for choice in known:
                box.addItem(choice.title, choice.name)
        self.objective.setCurrentIndex(max(0, self.objective.findData(_PLAINEST)))
        self._layout.setRowVisible(self.recipe, bool(choices.recipes))
        self._running_changed(self.state.pretraining)

    def _choices_failed(self, why: str) -> None:
        self.progress.setText(why)

    def _start(self) -> None:
        chosen = self.begin_from.currentText()
        self.do.pretrain(
            Stage(
                objective=self.objective.currentData(),
                data=Path(self.data.text().strip()),
                begin_from=str(self._models[chosen]) if chosen in self._models else None,
                recipe=self.recipe.currentData(),
                epochs=self.epochs.value() or None,
                batch_size=self.batch.value() or None,
                name=self.name.text().strip() or None,
            )
        )
        when_closed(self, self.do.leave_pretraining)

    def _resume(self) -> None:
        self.do.resume_pretraining(self._runs[self.stopped.currentIndex()])
        when_closed(self, self.do.leave_pretraining)

    def _toggle(self, wanted: bool) -> None:
        self.state.show_reconstructions = wanted

    def _running_changed(self, job: Any) -> None:
        known = self.objective.currentData() is not None
        self.run.setEnabled(job is None and known)
        self.resume.setEnabled(job is None)
        self.stop.setEnabled(job is not None)
        self.bar.setVisible(job is not None)
        self._list()

    def _session_changed(self, session: Any) -> None:
        if session is not None:
            self.data.setText(str(session.root))
        self._list()

    def _list(self, _value: Any = None) -> None:
        session = self.state.session
        self._models = {m.name: m.path for m in list_models(*([session.models] if session else []))}
        chosen = self.begin_from.currentText()
        self.begin_from.clear()
        self.begin_from.addItems([_NOTHING, *self._models])
        self.begin_from.setCurrentText(chosen if chosen in self._models else _NOTHING)
        idle = session is not None and self.state.pretraining is None
        self._runs = stopped_runs(session.root / "runs") if session is not None and idle else []
        self.stopped.clear()
        self.stopped.addItems([run.name for run in self._runs])
        self._resuming.setVisible(bool(self._runs))

    def _show(self, watched: Watched | None) -> None:
        started = watched.started if watched else None
        self.bar.setRange(0, started.steps if started else 0)
        self.curves.show_run(watched)
        self.look.setEnabled(watched is not None and watched.picture is not None)
        if watched is None:
            for line in (self.progress, self.resources, self.skipped, self.picture):
                line.setText("")
            return
        self.bar.setValue(watched.step)
        self.progress.setText(_progress(watched))
        self.progress.setToolTip((sentence(started) or "") if started else "")
        self.resources.setText(resources(watched.epochs[-1]) if watched.epochs else "")
        self._show_skipped(watched)
        if watched.picture is not None:
            self.picture.setText(f"{', '.join(watched.picture.images)} after epoch {watched.picture.epoch}")

    def _show_skipped(self, watched: Watched) -> None:
        files = watched.skipped
        self.skipped.setText(f"{len(files)} of {files[-1].of} files skipped: {files[-1].name}..." if files else "")
        reasons = [f"{s.name}: {s.reason}" for s in files[-_SHOWN_SKIPPED:]]
        self.skipped.setToolTip("\n".join(reasons))


def _progress(watched: Watched) -> str:
    started, result = watched.started, watched.result
    if result is not None:
        return f"<b>{result.model.name}</b>: {result.epochs} epochs in {clock(result.seconds_total)} h"
    if started is None or watched.seconds_left is None:
        return watched.sentence
    epoch = min(len(watched.epochs) + 1, started.epochs)
    rate = f", {watched.samples_per_second:.3g} samples/s" if watched.samples_per_second else ""
    return f"Epoch {epoch} of {started.epochs}, about {clock(watched.seconds_left)} h left{rate}"


def _spin(most: int) -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(0, most)
    spin.setSpecialValueText("default")
    return spin


def _let_shrink(box: QComboBox) -> None:
    """Keep a long entry from making the panel wider than its dock."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
