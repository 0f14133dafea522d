"""The curves of a pre-training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyqtgraph as pg

if TYPE_CHECKING:
    from napari_pcs.gui.watched import Watched

__all__ = ["LossCurves"]

_STEP, _TRAINING, _VALIDATION = "#8a8f98", "#e9c46a", "#4cc9f0"
_HEIGHT = 180


class LossCurves(pg.PlotWidget):
    """Training and validation loss by epoch, with the loss of each step behind them."""

    def __init__(self) -> None:
        super().__init__(background=None)
        self.setFixedHeight(_HEIGHT)  # in an area that scrolls it would take all there is
        self.setLabel("bottom", "epoch")
        self.setLabel("left", "loss")
        self.addLegend(offset=(-5, 5))
        self.steps = self.plot(pen=pg.mkPen(_STEP, width=1))
        self.steps.setDownsampling(auto=True)
        self.training = self._line(_TRAINING, "training")
        self.validation = self._line(_VALIDATION, "held out")

    def _line(self, color: str, name: str) -> pg.PlotDataItem:
        pen = pg.mkPen(color, width=2)
        return self.plot(pen=pen, symbol="o", symbolSize=4, symbolPen=None, symbolBrush=color, name=name)

    def show_run(self, watched: Watched | None) -> None:
        """Draw a run as it stands."""
        steps = watched.steps if watched else ()
        epochs = watched.epochs if watched else ()
        validated = [(e.epoch, e.validation_loss) for e in epochs if e.validation_loss is not None]
        self.steps.setData([x for x, _ in steps], [y for _, y in steps])
        self.training.setData([e.epoch for e in epochs], [e.loss for e in epochs])
        self.validation.setData([x for x, _ in validated], [y for _, y in validated])
