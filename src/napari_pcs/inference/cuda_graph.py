"""Passes over repeated shapes recorded once and replayed, so that a GPU need not wait for Python."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from napari_pcs.models.contract import SegmentationOutput
from napari_pcs.models.device import is_device_lost, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Forward = Callable[[Tensor], SegmentationOutput]

__all__ = ["CudaGraphs"]

_MOST = 2
"""Recorded shapes; each keeps the memory of a whole pass."""
_WARM_UPS = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    image: Tensor
    out: SegmentationOutput

    def replay(self, image: Tensor) -> SegmentationOutput:
        self.image.copy_(image)
        self.graph.replay()
        return SegmentationOutput(self.out.logits.clone(), self.out.features.clone())


class CudaGraphs:
    """Recorded passes by the shape of their image.

    A shape is recorded when it comes for the second time. A pass that cannot be recorded is run as
    usual, and a sentence in the log says so.
    """

    def __init__(self) -> None:
        self._seen: set[torch.Size] = set()
        self._recorded: dict[torch.Size, _Recorded] = {}
        self._refused = False

    def run(self, image: Tensor, forward: Forward) -> SegmentationOutput:
        """Return what `forward` gives for an image on the GPU."""
        if image.shape in self._recorded:
            return self._recorded[image.shape].replay(image)
        if image.shape not in self._seen or self._refused or len(self._recorded) == _MOST:
            self._seen.add(image.shape)
            return forward(image)
        try:
            self._recorded[image.shape] = _record(image, forward)
        except RuntimeError as error:
            if is_device_lost(error) and not _is_refusal(error):
                raise
            why = "it takes too much memory" if is_out_of_memory(error) else str(error).splitlines()[0]
            _log.warning("A pass could not be recorded as a CUDA graph (%s); passes run without.", why)
            self._refused = True
            return forward(image)
        return self._recorded[image.shape].replay(image)


def _record(image: Tensor, forward: Forward) -> _Recorded:
    own = image.clone()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):  # libraries choose their kernels, and tables are brought to the GPU
            forward(own)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = forward(own)
    return _Recorded(graph, own, out)


def _is_refusal(error: RuntimeError) -> bool:
    """Say whether CUDA only declined to record: the device is sound."""
    return "captur" in str(error)
