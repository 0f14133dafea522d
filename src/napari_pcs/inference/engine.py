"""What runs a network: PyTorch in one precision or another, or OpenVINO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_pcs.models.contract import SegmentationOutput, Segmenter
    from napari_pcs.stop import StopToken

__all__ = ["Engine"]


class Engine(ABC):
    """Runs a segmenter's pass from an image to what its heads say.

    Attributes
    ----------
    network
        Whose function it is; its class head is applied by the caller.
    device
        Where it computes and what it returns lies.
    """

    network: Segmenter
    device: torch.device

    @property
    @abstractmethod
    def name(self) -> str:
        """Library and precision, as the timing report says them: "PyTorch fp32", "OpenVINO bf16"."""

    @abstractmethod
    def pass_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return about how many bytes one pass over so many voxels (x, y, z) needs beyond the weights."""

    @abstractmethod
    def run(self, image: Tensor, stop: StopToken) -> SegmentationOutput:
        """Run one pass.

        Parameters
        ----------
        image
            (1, channel, x, y, z) float32 on the CPU or the engine's device; sides are multiples of the network's.
        stop
            Checked often; `CancelledError` within two seconds.

        Returns
        -------
        SegmentationOutput
            float32, on the engine's device.
        """

    def release(self) -> None:  # noqa: B027  nothing to give back is the usual case
        """Give back the memory that is kept between passes; the next pass takes it again."""
