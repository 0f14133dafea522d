"""The curves and pictures of a run for TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from napari_pcs.files import refused
from napari_pcs.training.events import Epoch, Pictured, Step

if TYPE_CHECKING:
    from types import TracebackType

    from napari_pcs.training.events import Event

__all__ = ["Board"]

_STEP = {"loss": "train/loss", "learning_rate": "train/learning_rate", "gradient_norm": "train/gradient_norm"}
_EPOCH = {
    "loss": "epoch/loss",
    "validation_loss": "epoch/validation_loss",
    "seconds": "epoch/seconds",
    "samples_per_second": "epoch/samples_per_second",
    "memory_mb": "resources/memory_mb",
    "utilisation": "resources/utilisation",
    "power_w": "resources/power_w",
}
_PREFIX = "events.out.tfevents."


class Board:
    """Context manager that writes TensorBoard's files of a run; everything is drawn over steps.

    Parameters
    ----------
    folder
        `tensorboard` below the folder of the run.
    after_step
        Of a run that goes on: what an earlier sitting wrote about later steps is no longer shown.

    Raises
    ------
    SessionError
        Here and in `add`, if the disk is full or read-only.
    """

    def __init__(self, folder: Path, *, after_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self._step = after_step
        _await_later_name(folder)
        try:
            self._writer = SummaryWriter(str(folder), purge_step=after_step + 1 if after_step else None)
        except OSError as error:
            raise refused(folder, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, event: Event) -> None:
        """Show an event, if it is one that can be drawn."""
        try:
            match event:
                case Step():
                    self._step = event.step
                    parts = {f"parts/{name}": value for name, value in event.figures.items()}
                    self._draw({**self._named(event, _STEP), **parts, "train/seconds": event.seconds})
                case Epoch():
                    held_out = {f"validation/{name}": value for name, value in event.figures.items()}
                    self._draw({**self._named(event, _EPOCH), **held_out})
                    self._writer.flush()
                case Pictured():
                    self._show(Path(event.path), "reconstruction/" + "_".join(event.images))
        except OSError as error:
            raise refused(self.folder, error) from error

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    @staticmethod
    def _named(event: Event, names: dict[str, str]) -> dict[str, float | None]:
        return {title: getattr(event, name) for name, title in names.items()}

    def _draw(self, scalars: dict[str, float | None]) -> None:
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, self._step)

    def _show(self, path: Path, title: str) -> None:
        from skimage.io import imread

        picture = np.asarray(imread(path))
        self._writer.add_image(title, picture, self._step, dataformats="HWC")


def _await_later_name(folder: Path) -> None:
    """Wait until a new file's name follows those that are there: TensorBoard reads in their order.

    A name begins with the whole second in which its file began.
    """
    begun = [int(path.name.removeprefix(_PREFIX).partition(".")[0]) for path in folder.glob(f"{_PREFIX}*")]
    time.sleep(min(1.0, max(0.0, max(begun, default=0) + 1 - time.time())))
