"""Predict: run a model on the open hemisphere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QPushButton, QWidget

from napari_pcs.gui.panel import Panel, button, heading, note
from napari_pcs.models.folders import list_models

if TYPE_CHECKING:
    from napari_pcs.anatomy.length import Measurement
    from napari_pcs.prediction import Prediction

__all__ = ["PredictPanel"]

_BY_RULE = "Without a model: marks the fold that follows the cingulate sulcus outwards. Nobody has looked at it."
_AHEAD = "While you work, the cases that come next in the session are predicted, and shown when they open"
_DEVICES = ("auto", "cuda", "mps", "cpu")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class PredictPanel(Panel):
    """Chooses model and device, and says what the model found."""

    title: ClassVar[str] = "Predict"

    def build(self) -> None:
        form = QWidget()
        layout = QFormLayout(form)
        layout.setContentsMargins(0, 0, 0, 0)
        self.model, self.device = QComboBox(), QComboBox()
        self.device.addItems(_DEVICES)
        self.device.setToolTip("auto takes the fastest device that this machine has")
        layout.addRow("Model", self.model)
        layout.addRow("Device", self.device)
        self.column.addWidget(form)
        self.ahead = QCheckBox("Predict ahead")
        self.ahead.setToolTip(_AHEAD)
        self.ahead.setChecked(self.state.predict_ahead)
        self.ahead.toggled.connect(self._set_ahead)
        self.state.events.predict_ahead.connect(lambda wanted: self.ahead.setChecked(wanted))
        self.column.addWidget(self.ahead)
        self.run = button("Predict", self.do.predict, "Overlay skeleton and PCS")
        self.column.addWidget(self.run)
        self.propose = button("Propose by rule", self.do.propose, _BY_RULE)
        self.column.addWidget(self.propose)
        self.column.addWidget(heading("What the model found"))
        self.found = note("Nothing yet.")
        self.column.addWidget(self.found)
        self.column.addWidget(heading("About the model"))
        self.card = note()
        self.column.addWidget(self.card)
        self.model.currentTextChanged.connect(self._chosen)
        self.device.setCurrentText(self.state.device)
        self.device.currentTextChanged.connect(self._place)
        self.state.events.device.connect(lambda device: self.device.setCurrentText(device))
        for signal in (self.state.events.session, self.state.events.model):
            signal.connect(self._list_models)
        self.state.events.prediction.connect(self._show)
        self._list_models()

    def busy_buttons(self) -> list[QPushButton]:
        return [self.run, self.propose]

    def _set_ahead(self, wanted: bool) -> None:
        self.state.predict_ahead = wanted

    def _place(self, device: str) -> None:
        self.state.device = device

    def _list_models(self, _value: Any = None) -> None:
        session = self.state.session
        self._models = {m.name: m for m in list_models(*([session.models] if session else []))}
        self.model.blockSignals(True)
        self.model.clear()
        self.model.addItems(list(self._models))
        self.model.setCurrentText(self.state.model)
        self.model.blockSignals(False)
        self._chosen(self.model.currentText())

    def _chosen(self, name: str) -> None:
        if name in self._models:
            self.state.model = name
            # A digest is one word, which would make the panel wider than the window leaves it.
            self.card.setText(_DIGEST.sub(lambda found: f"{found[0][:12]}…", self._models[name].summary))
            self.card.setToolTip(self._models[name].card)

    def _show(self, prediction: Prediction | None) -> None:
        if prediction is None:
            self.found.setText("Nothing yet.")
            return
        found = prediction.measurement
        opinion = ", ".join(f"{k.value} {p:.0%}" for k, p in prediction.class_probabilities.items())
        when = "kept; it took " if prediction.kept else ""
        self.found.setText(
            f"{_measured(found)}<br>"
            f"Class head: {opinion}<br>"
            f"{when}{prediction.timings_s['total']:.1f} s on {prediction.device}, {prediction.route}"
        )


def _measured(found: Measurement | None) -> str:
    if found is None:
        return "<b>PCS not measured</b>: nobody knows AC and PC"
    gaps = f" (bridging {', '.join(f'{g:.0f}' for g in found.gaps_mm)} mm)" if found.gaps_mm else ""
    return f"<b>PCS {found.pcs_class}</b>, {found.length_mm:.1f} mm{gaps}"
