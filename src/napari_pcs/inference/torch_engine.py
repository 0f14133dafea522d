"""Passes by PyTorch, on any device."""

from __future__ import annotations

import logging
import os
from copy import deepcopy
from typing import TYPE_CHECKING

import torch

from napari_pcs.inference.cuda_graph import CudaGraphs
from napari_pcs.inference.engine import Engine
from napari_pcs.inference.precision import best_precision, computing_in
from napari_pcs.models.contract import SegmentationOutput
from napari_pcs.models.device import is_device_lost
from napari_pcs.models.interrupt import interruptible

if TYPE_CHECKING:
    from torch import Tensor

    from napari_pcs.inference.precision import Precision
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.stop import StopToken

__all__ = ["GRAPHS_VARIABLE", "TorchEngine"]

GRAPHS_VARIABLE = "NAPARI_PCS_CUDA_GRAPHS"
"""Set to 1, passes of a repeated shape are recorded as CUDA graphs; nobody has measured yet that it pays."""
_HALF_ON_CPU = 1.3
"""Memory of a bfloat16 pass over that of a float32 pass, on a CPU: casts are kept beside what they were made from."""
_log = logging.getLogger(__name__)


class TorchEngine(Engine):
    """Runs a network by PyTorch.

    A network on another device is copied, so that the original outlives the failure of a GPU; one
    that is already there is run as it is.

    Parameters
    ----------
    network
        What is run, in evaluation mode from now on.
    device
        Where.
    precision
        Of products and convolutions; the fastest that the hardware has if left out.
    """

    def __init__(self, network: Segmenter, device: torch.device, precision: Precision | None = None) -> None:
        self.network = network
        self.device = device
        self.precision: Precision = precision or best_precision(device)
        self._placed: Segmenter | None = None
        wanted = device.type == "cuda" and os.environ.get(GRAPHS_VARIABLE) == "1"
        self._graphs = CudaGraphs() if wanted else None

    @property
    def name(self) -> str:
        """Library and precision."""
        return f"PyTorch {self.precision}"

    def pass_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return about how many bytes one pass needs beyond the weights."""
        x, y, z = shape
        needed = self.network.pass_bytes(x * y * z)
        return round(_HALF_ON_CPU * needed) if self.device.type == "cpu" and self.precision != "fp32" else needed

    def run(self, image: Tensor, stop: StopToken) -> SegmentationOutput:
        """Run one pass; see `Engine.run`."""
        stop.check()
        try:
            return self._run(self._on_device(), image, stop)
        except RuntimeError as error:
            if is_device_lost(error):
                self._placed = None  # a copy of the weights that nothing can be done with
            raise

    def place(self) -> None:
        """Bring the weights to the device, so that the first pass need not."""
        self._on_device()

    def release(self) -> None:
        """Give the device's memory back, that of the weights' copy included."""
        self._placed, self._graphs = None, CudaGraphs() if self._graphs else None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, network: Segmenter, image: Tensor, stop: StopToken) -> SegmentationOutput:
        with torch.inference_mode(), interruptible(network, stop):
            there = to_device(image, self.device)
            out = self._pass(network, there)
            if self.precision != "fp32" and not bool(torch.isfinite(out.logits).all()):
                _log.warning("A pass in %s gave values that are no numbers; fp32 is used from now on.", self.precision)
                self.precision, self._graphs = "fp32", None
                out = self._pass(network, there)
        return out

    def _pass(self, network: Segmenter, image: Tensor) -> SegmentationOutput:
        def forward(there: Tensor) -> SegmentationOutput:
            with computing_in(self.precision, self.device):
                out: SegmentationOutput = network(there)
            return SegmentationOutput(out.logits.float(), out.features.float())

        return self._graphs.run(image, forward) if self._graphs else forward(image)

    def _on_device(self) -> Segmenter:
        if self._placed is None:
            here = next(self.network.parameters()).device
            same = here.type == self.device.type and self.device.index in (None, here.index)
            self._placed = self.network if same else deepcopy(self.network).to(self.device)
            self._placed.eval()
        return self._placed


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the copy to a GPU is made while the CPU goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
