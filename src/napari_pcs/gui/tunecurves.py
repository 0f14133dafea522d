"""The curves of a tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyqtgraph as pg
from qtpy.QtCore import Qt

from napari_pcs.gui.panel import note
from napari_pcs.gui.progress import BUDGETS_S

if TYPE_CHECKING:
    from napari_pcs.gui.progress import Progress

__all__ = ["TuneCurves"]

_HEIGHT = 190
_LINES = {
    "loss": ("#e9c46a", "loss"),
    "held out": ("#f4f1de", "loss held out"),
    "dice_pcs": ("#b57be0", "PCS Dice"),
    "held out dice_pcs": ("#ff5fa8", "PCS Dice held out"),
    "held out dice_skeleton": ("#4cc9f0", "skeleton Dice held out"),
}
_BUDGET = "#8a8f98"


class TuneCurves(pg.PlotWidget):
    """Loss and Dice of each step, and those of held-out corrections after each round, by time.

    Attributes
    ----------
    legend
        Says which line is which, in colours; to be placed beside the plot, which it would cover.
    """

    def __init__(self) -> None:
        super().__init__(background=None)
        self.setFixedHeight(_HEIGHT)  # in an area that scrolls it would take all there is
        self.setLabel("bottom", "seconds of training")
        self.setMouseEnabled(x=False, y=False)
        self.hideButtons()
        self.getPlotItem().layout.setContentsMargins(0, 8, 10, 4)
        self.legend = note("&ensp; ".join(_named(color, title) for color, title in _LINES.values()))
        self.lines = {name: self._line(name) for name in _LINES}
        self._end = pg.InfiniteLine(pen=pg.mkPen(_BUDGET, width=1, style=Qt.PenStyle.DashLine))
        self._end.setVisible(False)
        self.addItem(self._end)

    def _line(self, name: str) -> pg.PlotDataItem:
        color, title = _LINES[name]
        marked = name.startswith("held out")
        return self.plot(
            pen=pg.mkPen(color, width=2),
            symbol="o",
            symbolSize=7 if marked else 3,
            symbolPen=None,
            symbolBrush=color,
            name=title,
        )

    def show_progress(self, progress: Progress) -> None:
        """Draw a tuning as it stands."""
        for name, line in self.lines.items():
            points = progress.curves.get(name, [])
            line.setData([x for x, _ in points], [y for _, y in points])
        budget = BUDGETS_S.get(progress.config.budget)
        self._end.setVisible(budget is not None)
        if budget is not None:
            self._end.setValue(budget)
            last = max((points[-1][0] for points in progress.curves.values()), default=0.0)
            self.setXRange(0, max(budget, last), padding=0.02)
        else:
            self.enableAutoRange(axis="x")


def _named(color: str, title: str) -> str:
    """Return a name in its colour that is not broken over two lines."""
    return f"<span style='color:{color}; font-size:8pt'>●&nbsp;{title.replace(' ', '&nbsp;')}</span>"
