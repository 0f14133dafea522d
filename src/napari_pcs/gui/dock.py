"""The dock widgets: the workspace with its six panels, and each panel as a dock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_pcs.case import LabelRole
from napari_pcs.gui.correct import CorrectPanel
from napari_pcs.gui.load import LoadPanel
from napari_pcs.gui.predict import PredictPanel
from napari_pcs.gui.pretrain import PretrainPanel
from napari_pcs.gui.report import ReportPanel
from napari_pcs.gui.status import StatusStrip
from napari_pcs.gui.tune import TunePanel

if TYPE_CHECKING:
    import napari

    from napari_pcs.gui.panel import Panel

__all__ = ["CorrectDock", "LoadDock", "PredictDock", "PretrainDock", "ReportDock", "TuneDock", "Workspace"]

_WIDTH, _HEIGHT = 340, 620


def _scrolling(panel: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidget(panel)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return area


class Workspace(QWidget):
    """Load, Predict, Correct, Tune and Report, in the order in which they are used, and Pre-train."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        kinds: tuple[type[Panel], ...] = (
            *(LoadPanel, PredictPanel, CorrectPanel, TunePanel, ReportPanel),
            PretrainPanel,
        )
        self.panels = {kind.title: kind(napari_viewer) for kind in kinds}
        for title, panel in self.panels.items():
            self.tabs.addTab(_scrolling(panel), title)
        self.status = StatusStrip(napari_viewer)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(self.tabs, stretch=1)
        column.addWidget(self.status)
        self.setMinimumWidth(_WIDTH)
        state = self.panels["Load"].state
        self._state = state
        state.events.case.connect(lambda case: self._go_on() if case is not None else None)
        state.events.prediction.connect(lambda found: self.show_panel("Correct") if found is not None else None)
        state.events.started_from.connect(lambda began: self._go_on() if began is LabelRole.PROPOSED else None)

    def _go_on(self) -> None:
        """Show what comes next for the open case: a proposal is there to be corrected."""
        self.show_panel("Correct" if self._state.started_from is LabelRole.PROPOSED else "Predict")

    def sizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Leave the canvas as much room as the panels do not need."""
        return QSize(_WIDTH, _HEIGHT)

    def show_panel(self, title: str) -> None:
        """Bring one panel to the front."""
        self.tabs.setCurrentIndex(list(self.panels).index(title))


class _PanelDock(QWidget):
    """One panel with its own status strip."""

    panel_class: ClassVar[type[Panel]]

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.panel = self.panel_class(napari_viewer)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(_scrolling(self.panel), stretch=1)
        column.addWidget(StatusStrip(napari_viewer))
        self.setMinimumWidth(_WIDTH)


class LoadDock(_PanelDock):
    """Open a hemisphere."""

    panel_class = LoadPanel


class PredictDock(_PanelDock):
    """Predict skeleton and PCS."""

    panel_class = PredictPanel


class CorrectDock(_PanelDock):
    """Correct and save."""

    panel_class = CorrectPanel


class TuneDock(_PanelDock):
    """Tune on corrections."""

    panel_class = TunePanel


class PretrainDock(_PanelDock):
    """Pre-train without labels."""

    panel_class = PretrainPanel


class ReportDock(_PanelDock):
    """Figures for the open case."""

    panel_class = ReportPanel
