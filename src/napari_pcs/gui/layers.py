"""The layers of a case, and what they say when the annotator edits them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_pcs.anatomy.length import measure_case
from napari_pcs.case import Case, LabelRole, LabelVolume
from napari_pcs.gui.canvas import contrast_of, go_to_pcs, grid_of, label_colors, layers_change, orient
from napari_pcs.gui.measuring import Measuring
from napari_pcs.labels import Label

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from numpy.typing import NDArray

    from napari_pcs.anatomy.length import Measurement
    from napari_pcs.gui.state import State

__all__ = ["EDITABLE", "LayerSync"]

SKELETON, PREDICTED, EDITABLE = "skeleton", "PCS (predicted)", "labels"
_TO_EDIT = (LabelRole.CORRECTED, LabelRole.PREDICTED, LabelRole.PROPOSED, LabelRole.REFERENCE)
"""Which labels of a case are opened for editing: the first that it has."""
_SETTLE_MS = 150


class LayerSync:
    """Keeps a viewer's layers equal to its state, and its state aware of the annotator's edits.

    Painting and undo announce themselves by different events, some of which also come with a mere
    change of slice. So all of them are heard, and once things have settled the labels are compared.

    Signals
    -------
    replaced
        Other labels have taken the place of the editable ones, as a whole.
    """

    replaced = Signal()

    _instances: ClassVar[WeakKeyDictionary[Viewer, LayerSync]] = WeakKeyDictionary()

    @classmethod
    def attach(cls, viewer: Viewer, state: State) -> LayerSync:
        """Make the sync of a viewer; it lives as long as the viewer."""
        cls._instances[viewer] = cls(viewer, state)
        return cls._instances[viewer]

    @classmethod
    def of(cls, viewer: Viewer) -> LayerSync:
        """Return the sync of a viewer that has a state."""
        return cls._instances[getattr(viewer, "__wrapped__", viewer)]

    def __init__(self, viewer: Viewer, state: State) -> None:
        self._viewer, self._state = viewer, state
        self._saved: NDArray[np.uint8] | None = None
        self._chosen = False
        self._labels: Labels | None = None
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self._settled)
        self._measuring = Measuring(self._measured, lambda sentence: state.say(sentence, error=True))
        state.events.case.connect(self._show_case)
        state.events.prediction.connect(self._show_prediction)
        viewer.layers.events.removed.connect(self._layer_removed)

    @property
    def labels(self) -> NDArray[np.uint8] | None:
        """A copy of what the annotator sees in the editable layer."""
        return None if self._labels is None else np.array(self._labels.data, dtype=np.uint8)

    @property
    def layer(self) -> Labels | None:
        """The editable layer, if there is one."""
        return self._labels

    @property
    def is_in_use(self) -> bool:
        """Whether the editable labels are somebody's work, saved or not, that nothing may replace unasked."""
        if self._labels is None or self._saved is None:
            return False
        return self._chosen or not np.array_equal(self._labels.data, self._saved)

    @property
    def has_labels(self) -> bool:
        """Whether there is an editable layer."""
        return self._labels is not None

    @property
    def saved(self) -> NDArray[np.uint8] | None:
        """The editable labels as they were loaded or last saved."""
        return self._saved

    def mark_saved(self, labels: NDArray[np.uint8]) -> None:
        """Take these labels as saved; what differs from them is not."""
        self._saved = labels
        self.measure_again()

    def measure_again(self) -> None:
        """Compare and measure the labels; for a case whose frame has changed."""
        self._settled()

    def replace_labels(self, data: NDArray[np.uint8]) -> None:
        """Change the editable labels in one step that can be undone."""
        assert self._labels is not None  # noqa: S101  the button is disabled without labels
        changed = np.nonzero(self._labels.data != data)
        if len(changed[0]):
            self._labels.data_setitem(changed, data[changed])
            self.replaced.emit()

    def start_from(self, role: LabelRole) -> None:
        """Let the editable labels begin as labels of the case, as one step that can be undone."""
        case = self._state.case
        assert case is not None  # noqa: S101  the labels are those of a case
        labels = case.labels[role]
        self._chosen = True
        if self._labels is None:
            self._add_editable(case, labels, role)
        else:
            self.replace_labels(labels.data)
            self._state.started_from = role
            self.mark_saved(labels.data.copy())
        self._measured(measure_case(case, labels.data))  # its length is told at once
        go_to_pcs(self._viewer, labels.data)

    def set_tool(self, mode: str, label: Label) -> None:
        """Choose napari's paint, erase or fill tool and the label it writes."""
        if self._labels is None:
            return
        self._viewer.layers.selection.active = self._labels
        self._labels.selected_label = int(label)
        self._labels.mode = mode

    def _show_case(self, case: Case | None) -> None:
        start = time.perf_counter()
        self._disconnect_labels()
        with layers_change():
            for layer in [layer for layer in self._viewer.layers if "napari_pcs" in layer.metadata]:
                self._viewer.layers.remove(layer)
        if case is None:
            return
        contrast = contrast_of(case.image.data)
        image = Image(case.image.data, name=case.key.stem, colormap="gray", contrast_limits=contrast, **grid_of(case))
        self._viewer.add_layer(image)
        role = next((role for role in _TO_EDIT if role in case.labels), None)
        if role is not None:
            self._add_editable(case, case.labels[role], role)
        if LabelRole.PREDICTED in case.labels:
            self._show_locked(case, case.labels[LabelRole.PREDICTED].data)
        orient(self._viewer, case)
        if role is LabelRole.PROPOSED:
            self._measured(measure_case(case, case.labels[role].data))  # a rule leaves few pieces: it is fast
            go_to_pcs(self._viewer, case.labels[role].data)
        self._state.timings_s = {**self._state.timings_s, "draw": time.perf_counter() - start}

    def _show_prediction(self, prediction: Any) -> None:
        case = self._state.case
        if prediction is None or case is None:
            return
        start = time.perf_counter()
        self._show_locked(case, prediction.labels)
        if self._labels is None:
            predicted = LabelVolume(prediction.labels, prediction.provenance(case))
            self._add_editable(case, predicted, LabelRole.PREDICTED)
        elif not self._state.dirty and LabelRole.CORRECTED not in case.labels:
            self._labels.data = prediction.labels.copy()
            # Assigning data leaves the old undo history, which would corrupt the new labels.
            self._labels.editable = False
            self._labels.editable = True
            self._saved = prediction.labels.copy()
            self._state.started_from = LabelRole.PREDICTED
            self.replaced.emit()
        go_to_pcs(self._viewer, prediction.labels)
        self._state.timings_s = {**self._state.timings_s, "draw": time.perf_counter() - start}
        self._settled()
        if not self._state.dirty and self._state.started_from is LabelRole.PREDICTED:
            self._measured(prediction.measurement)

    def _show_locked(self, case: Case, labels: NDArray[np.uint8]) -> None:
        parts = {SKELETON: (labels >= Label.SKELETON) * Label.SKELETON, PREDICTED: (labels == Label.PCS) * Label.PCS}
        for name, data in parts.items():
            self._remove(name)
            layer = Labels(data.astype(np.uint8), name=name, opacity=0.5, colormap=label_colors(), **grid_of(case))
            index = self._viewer.layers.index(self._labels) if self._labels in self._viewer.layers else None
            self._viewer.add_layer(layer)
            layer.editable = False
            if index is not None:
                self._viewer.layers.move(len(self._viewer.layers) - 1, index)
        if self._labels is not None:
            self._viewer.layers.selection.active = self._labels

    def _remove(self, name: str) -> None:
        with layers_change():
            for layer in list(self._viewer.layers):
                if layer.name == name and "napari_pcs" in layer.metadata:
                    self._viewer.layers.remove(layer)

    def _add_editable(self, case: Case, labels: LabelVolume, role: LabelRole) -> None:
        self._saved = labels.data.copy()
        layer = Labels(labels.data.copy(), name=EDITABLE, opacity=0.8, colormap=label_colors(), **grid_of(case))
        layer.brush_size = 2
        layer.selected_label = int(Label.PCS)
        layer.n_edit_dimensions = 2
        self._viewer.add_layer(layer)
        for signal in self._edit_signals(layer):
            signal.connect(self._touched)
        self._labels = layer
        corrected = role is LabelRole.CORRECTED
        self._state.begin_sitting((labels.provenance.edit_seconds or 0.0) if corrected else 0.0)
        self._state.started_from = role
        self._settled()

    def _disconnect_labels(self) -> None:
        self._timer.stop()
        self._measuring.forget()
        if self._labels is not None:
            for signal in self._edit_signals(self._labels):
                signal.disconnect(self._touched)
        self._labels = self._saved = None
        self._chosen = False
        self._state.dirty = False
        self._state.length_mm = self._state.pcs_class = self._state.started_from = None

    @staticmethod
    def _edit_signals(layer: Labels) -> tuple[Any, ...]:
        """Whatever napari emits when labels change: no single event covers painting, filling and undo."""
        return layer.events.paint, layer.events.labels_update, layer.events.set_data, layer.events.data

    def _touched(self, _event: Any = None) -> None:
        self._timer.start()

    def _layer_removed(self, event: Any) -> None:
        # A viewer that closes removes its layers first: nothing may reach its panels later.
        if event.value is self._labels:
            self._timer.stop()
            self._measuring.forget()

    def _settled(self) -> None:
        case = self._state.case
        if self._labels is None or case is None:
            return
        data = np.array(self._labels.data, dtype=np.uint8)
        self._state.dirty = self._saved is None or not np.array_equal(data, self._saved)
        self._measuring.ask(case, data)

    def _measured(self, found: Measurement | None) -> None:
        self._state.length_mm = found.length_mm if found else None
        self._state.pcs_class = found.pcs_class if found else None
