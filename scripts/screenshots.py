"""Make the pictures of docs/ from the real workspace.

xvfb-run -a -s "-screen 0 1920x1080x24" python scripts/screenshots.py docs/images [HEMISPHERES]

With a folder of grey/white maps, the picture of the Pre-train panel is made, and no other.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = (1280, 800)
EPOCHS = 6
PRETRAINING_EPOCHS = 30


class Photographer:
    """Drives the workspace as a user would and photographs the window."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.viewer = napari.Viewer(title="napari-pcs")
        self.viewer.window.resize(*SIZE)
        self.workspace = open_workspace(self.viewer)
        self.state = state_of(self.viewer)
        self.panels = self.workspace.panels

    def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            QApplication.processEvents()
            time.sleep(0.01)

    def idle(self) -> None:
        self.wait(lambda: self.state.job is None)
        if self.state.message.is_error:
            raise SystemExit(self.state.message.text)

    def photograph(self, name: str, panel: str) -> None:
        self.workspace.show_panel(panel)
        for _ in range(30):
            QApplication.processEvents()
            time.sleep(0.02)
        self.viewer.screenshot(str(self.folder / f"{name}.png"), canvas_only=False, flash=False)

    def open(self, sample: str) -> None:
        self.panels["Load"].sample.setCurrentText(sample)
        self.panels["Load"].open_sample.click()
        self.idle()

    def predict(self) -> None:
        self.panels["Predict"].run.click()
        self.idle()

    def correct(self) -> None:
        """Let the PCS reach a little further along the skeleton, or begin one where there is none."""
        layer = self.viewer.layers["labels"]
        self.panels["Correct"].use("paint")
        labels = np.asarray(layer.data)
        pcs = labels == 2
        if not pcs.any():
            pcs[tuple(np.argwhere(labels == 1)[len(np.argwhere(labels == 1)) // 2])] = True
        reach = ndimage.binary_dilation(pcs, iterations=4) & (labels == 1)
        layer.data_setitem(np.nonzero(reach), 2)
        self.wait(lambda: self.state.dirty)

    def save(self) -> None:
        self.panels["Correct"].editor.setText("A. Notator")
        self.panels["Correct"].save.click()
        self.idle()


def pretraining(p: Photographer, root: Path, hemispheres: Path) -> None:
    """Pre-train for a few epochs, with the real command, and photograph the panel before the end."""
    p.panels["Load"].do.open_session(root / "my-session")
    p.open("mni152-left")
    panel = p.panels["Pre-train"]
    p.workspace.show_panel("Pre-train")
    p.wait(lambda: panel.run.isEnabled())
    panel.data.setText(str(hemispheres))
    panel.recipe.setCurrentIndex(panel.recipe.findData("quick"))
    panel.epochs.setValue(PRETRAINING_EPOCHS)
    panel.run.click()
    p.wait(lambda: p.state.watched is not None and len(p.state.watched.epochs) >= PRETRAINING_EPOCHS - 2)
    panel.look.click()
    p.photograph("pretrain", "Pre-train")
    panel.stop.click()
    p.wait(lambda: p.state.pretraining is None)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    p = Photographer(folder)
    if sys.argv[2:]:
        with tempfile.TemporaryDirectory() as root:
            pretraining(p, Path(root), Path(sys.argv[2]))
        p.viewer.close()
        return
    with tempfile.TemporaryDirectory() as root:
        p.panels["Load"].do.open_session(Path(root) / "my-session")
        p.open("phantom-60mm")
        p.predict()
        p.correct()
        p.save()
        p.open("mni152-left")
        p.photograph("load", "Load")
        p.predict()
        p.photograph("predict", "Predict")
        p.correct()
        p.photograph("correct", "Correct")
        p.save()
        p.panels["Report"].run.click()
        p.idle()
        p.photograph("report", "Report")
        p.panels["Tune"].form.set("epochs", EPOCHS)
        p.panels["Tune"].run.click()
        p.idle()
        p.photograph("tune", "Tune")
    p.viewer.close()


if __name__ == "__main__":
    main()
