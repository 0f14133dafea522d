"""A hemisphere through a network: at once where it fits, else in windows, else on the CPU."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from monai.inferers import sliding_window_inference
from torch.nn import functional as F

from napari_pcs.errors import ModelError
from napari_pcs.inference.openvino_engine import OpenVINOEngine
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.models.contract import SegmentationOutput
from napari_pcs.models.device import free_memory, is_device_lost, is_out_of_memory
from napari_pcs.models.heads import channel_probabilities

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_pcs.inference.engine import Engine
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.stop import StopToken

    Shape = tuple[int, int, int]

__all__ = ["Mode", "Route", "pad_to_multiple", "padded_shape", "segment_hemisphere"]

Mode = Literal["whole", "windows"]

WINDOWS = (96, 64)
"""Voxels a side, in the order tried."""
_MEMORY_SHARE = 0.8
_OVERLAP = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """How a hemisphere went through a network.

    Attributes
    ----------
    mode
        "whole" (one padded pass) or "windows".
    engine
        Library and precision.
    device
        Where it was computed.
    notes
        What was tried before and why it did not work, a clause each.
    """

    mode: Mode
    engine: str
    device: str
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Say it, such as "one pass, OpenVINO fp32"."""
        how = {"whole": "one pass", "windows": "in windows"}[self.mode]
        return "; ".join([f"{how}, {self.engine}", *self.notes])


def padded_shape(image: NDArray[np.float32], network: Segmenter) -> Shape:
    """Return the voxels (x, y, z) of an image (channel, x, y, z) as it goes through a network."""
    x, y, z = (-(-side // network.side_multiple) * network.side_multiple for side in image.shape[1:])
    return x, y, z


def pad_to_multiple(image: Tensor, multiple: int = 32) -> Tensor:
    """Pad the last three sides with zeros, at their ends, to a multiple; of 32 a network can halve five times."""
    missing = [-n % multiple for n in image.shape[-3:]]
    return F.pad(image, [p for n in reversed(missing) for p in (0, n)])


def segment_hemisphere(
    engine: Engine, image: NDArray[np.float32], stop: StopToken
) -> tuple[NDArray[np.float32], NDArray[np.float32], Route]:
    """Return probabilities (2, x, y, z), class probabilities (3,) and how they were computed.

    The whole hemisphere goes through at once if memory allows, else in overlapping windows; the
    two are not quite the same function, because normalisation follows the field of view. Where
    memory runs out all the same, or a GPU fails, the next smaller way is tried, and the CPU last.

    Parameters
    ----------
    engine
        Runs the passes.
    image
        (channel, x, y, z).
    stop
        Checked often.

    Raises
    ------
    ModelError
        If not even the CPU has memory for one window.
    CancelledError
        Soon after `stop` is set.
    """
    padded = pad_to_multiple(torch.from_numpy(image)[None], engine.network.side_multiple)
    x, y, z = image.shape[1:]
    notes: list[str] = []
    lost = ""
    for attempt in _attempts(engine, padded):
        where = attempt.engine.device.type
        if where == lost:
            continue
        try:
            if why_not := attempt.does_not_fit():
                notes.append(why_not)
                continue
            with torch.inference_mode():
                logits, features = attempt.run(padded, stop)
                found = _probabilities(attempt.engine, logits[..., :x, :y, :z], features)
        except (RuntimeError, MemoryError) as error:
            notes.append(_why(error, attempt))
            _log.warning("%s, %s: %s.", attempt.engine.name, attempt.mode, notes[-1])
            lost = where if is_device_lost(error) else lost
        else:
            return *found, Route(attempt.mode, attempt.engine.name, where, tuple(dict.fromkeys(notes)))
        if where != lost:
            attempt.engine.release()
    msg = f"The {engine.device.type} device ran out of memory; close other programs, or choose the CPU."
    raise ModelError(msg)


@dataclass(frozen=True, eq=False)
class _Attempt:
    engine: Engine
    sides: Shape
    mode: Mode
    is_last: bool = False

    def does_not_fit(self) -> str:
        """Return why there is no use in trying, nothing if there is; the last attempt is always worth it."""
        needed, free = self.engine.pass_bytes(self.sides), free_memory(self.engine.device)
        if self.is_last or needed < _MEMORY_SHARE * free:
            return ""
        what = "one pass" if self.mode == "whole" else f"a window of {self.sides[0]}"
        where, name = self.engine.device.type, self.engine.name
        return f"{what} by {name} needs {needed / 1e9:.2f} GB and {where} has {free / 1e9:.2f} GB free"

    def run(self, image: Tensor, stop: StopToken) -> SegmentationOutput:
        if self.mode == "whole":
            return self.engine.run(image, stop)
        return _windows(self.engine, image, self.sides, stop)


def _attempts(engine: Engine, image: Tensor) -> Iterator[_Attempt]:
    """Yield what can be tried, the best first; windows are left to PyTorch."""
    x, y, z = image.shape[2:]
    yield _Attempt(engine, (x, y, z), "whole")
    own = engine
    if isinstance(engine, OpenVINOEngine):
        own = TorchEngine(engine.network, engine.device)
        yield _Attempt(own, (x, y, z), "whole")
    on_cpu = own.device.type == "cpu"
    for window in WINDOWS:
        sides = (min(window, x), min(window, y), min(window, z))
        yield _Attempt(own, sides, "windows", is_last=on_cpu and window == WINDOWS[-1])
    if not on_cpu:
        yield from _attempts(TorchEngine(_on_cpu(engine.network), torch.device("cpu")), image)


def _on_cpu(network: Segmenter) -> Segmenter:
    if next(network.parameters()).device.type == "cpu":
        return network
    try:
        return deepcopy(network).cpu()
    except RuntimeError as error:
        msg = "The GPU has failed and took the model with it. Start the program again, or choose the CPU."
        raise ModelError(msg) from error


def _probabilities(engine: Engine, logits: Tensor, features: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    probabilities = channel_probabilities(logits)
    network = engine.network
    home = next(network.parameters()).device
    volume = probabilities[:, 1].sum(dim=(1, 2, 3))
    classes = network.classify(features.to(home), volume.to(home)).softmax(dim=1)
    return probabilities[0].float().cpu().numpy(), classes[0].float().cpu().numpy()


def _windows(engine: Engine, image: Tensor, sides: Shape, stop: StopToken) -> SegmentationOutput:
    features: list[Tensor] = []

    def one(window: Tensor) -> Tensor:
        out = engine.run(window, stop)
        features.append(out.features)
        return out.logits.cpu()

    logits = sliding_window_inference(image.cpu(), sides, 1, one, overlap=_OVERLAP, mode="gaussian")
    return SegmentationOutput(torch.as_tensor(logits), torch.stack(features).mean(dim=0))


def _why(error: BaseException, attempt: _Attempt) -> str:
    """Return what went wrong, or raise what nothing else can be done about."""
    if is_out_of_memory(error):
        return f"{attempt.engine.name} ran out of memory on {attempt.engine.device.type}"
    if is_device_lost(error):
        return f"{attempt.engine.device.type} failed"
    if isinstance(attempt.engine, OpenVINOEngine):
        _log.warning("OpenVINO failed.", exc_info=error)
        return "OpenVINO failed"
    raise error
