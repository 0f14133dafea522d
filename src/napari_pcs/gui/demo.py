"""The demo: a viewer with the workspace, a sample, its prediction and its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_pcs.errors import PcsError
from napari_pcs.gui.dock import Workspace
from napari_pcs.gui.state import State, state_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["open_workspace", "run_demo"]

_PAINT_MS = 800
"""Time for the canvas to be drawn before a picture of it is taken."""


def open_workspace(viewer: napari.viewer.Viewer) -> Workspace:
    """Dock the workspace on the right of a viewer."""
    workspace = Workspace(viewer)
    viewer.window.add_dock_widget(workspace, name="PCS workspace", area="right", add_vertical_stretch=False)
    return workspace


def run_demo(sample: str, *, screenshot: Path | None, size: tuple[int, int], device: str) -> None:
    """Open a sample, predict and report on it, in a real window.

    Parameters
    ----------
    sample
        Name of a sample hemisphere.
    screenshot
        Where to save a picture of the finished window, which is then closed; None leaves it open.
    size
        Width and height of the window in pixels.
    device
        Where to compute.

    Raises
    ------
    PcsError
        If a step fails; only with `screenshot`, otherwise the workspace shows the sentence.
    """
    viewer = napari.Viewer(title="napari-pcs demo")
    viewer.window.resize(*size)
    workspace = open_workspace(viewer)
    state = state_of(viewer)
    state.device = device
    journey = _Journey(viewer, workspace, state, screenshot)
    journey.start(sample)
    napari.run()
    if journey.error:
        raise PcsError(journey.error)


class _Journey:
    """Starts each step of the demo when the one before it is done."""

    def __init__(
        self, viewer: napari.viewer.Viewer, workspace: Workspace, state: State, screenshot: Path | None
    ) -> None:
        self._viewer, self._workspace, self._state, self._screenshot = viewer, workspace, state, screenshot
        self._actions = workspace.panels["Load"].do
        self.error = ""
        state.events.case.connect(self._loaded)
        state.events.prediction.connect(self._predicted)
        state.events.report.connect(self._reported)
        state.events.message.connect(self._said)

    def start(self, sample: str) -> None:
        """Open the sample."""
        self._actions.open_sample(sample)

    def _loaded(self, case: Any) -> None:
        if case is not None:
            QTimer.singleShot(0, self._actions.predict)

    def _predicted(self, prediction: Any) -> None:
        if prediction is not None:
            QTimer.singleShot(0, self._actions.make_report)

    def _reported(self, report: Any) -> None:
        if report is None:
            return
        self._workspace.show_panel("Report")
        if self._screenshot is not None:
            QTimer.singleShot(_PAINT_MS, self._take_picture)

    def _said(self, message: Any) -> None:
        if message.is_error and self._screenshot is not None:
            self.error = message.text
            QTimer.singleShot(0, self._viewer.close)

    def _take_picture(self) -> None:
        assert self._screenshot is not None  # noqa: S101  only called with one
        QApplication.processEvents()
        try:
            self._screenshot.parent.mkdir(parents=True, exist_ok=True)
            self._viewer.screenshot(str(self._screenshot), canvas_only=False, flash=False)
        except OSError as error:
            self.error = f"{self._screenshot.name}: the picture could not be written ({error}). Choose another folder."
        self._viewer.close()
