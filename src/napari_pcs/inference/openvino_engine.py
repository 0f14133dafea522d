"""Passes by OpenVINO on a CPU: the same function as PyTorch's, in a fraction of its time and memory."""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeGuard

import torch

from napari_pcs.inference.engine import Engine
from napari_pcs.models.contract import SegmentationOutput
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from napari_pcs.models.contract import Segmenter
    from napari_pcs.stop import StopToken

__all__ = ["OpenVINOEngine", "OpenVINOPrecision", "best_openvino_precision", "openvino_version", "runs_in_openvino"]

OpenVINOPrecision = Literal["bf16", "fp32"]

_MOST = 2
"""Compiled shapes that are kept; compiling another takes one to three seconds."""
_POLL_MS = 50
_CONSTANTS = 300_000_000
"""Bytes of what is compiled besides what flows through it."""


def runs_in_openvino(network: Segmenter) -> TypeGuard[MultiTaskSwinUNETR]:
    """Say whether OpenVINO is installed and can run a network."""
    return isinstance(network, MultiTaskSwinUNETR) and openvino_version() is not None


def openvino_version() -> str | None:
    """Return the version of OpenVINO, None where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


class OpenVINOEngine(Engine):
    """Runs a Swin-UNETR by OpenVINO.

    Each shape of the image is compiled when it first comes, in one to three seconds, and kept; of
    shapes not used last only the weights.

    Parameters
    ----------
    network
        Its weights are copied when a shape is compiled.
    precision
        Of products and convolutions; bf16 where the processor has it, else fp32, if left out.
    """

    device = torch.device("cpu")
    bytes_per_voxel_and_channel: ClassVar[int] = 20
    """Measured: 14 to 20, for feature sizes 12 and 24, windows of 4 and 7 tokens, 64 x 160 x 128 voxels and more."""

    def __init__(self, network: MultiTaskSwinUNETR, precision: OpenVINOPrecision | None = None) -> None:
        self.network: MultiTaskSwinUNETR = network
        self._precision = precision
        self._compiled: OrderedDict[tuple[tuple[int, ...], int], Any] = OrderedDict()
        self._running = threading.Lock()

    @property
    def name(self) -> str:
        """Library and precision."""
        return f"OpenVINO {self.precision}"

    @property
    def precision(self) -> OpenVINOPrecision:
        """bf16 or fp32."""
        return self._precision or best_openvino_precision()

    def pass_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return about how many bytes one pass needs beyond the weights."""
        x, y, z = shape
        return x * y * z * self.network.decoded_channels * self.bytes_per_voxel_and_channel + _CONSTANTS

    def run(self, image: Tensor, stop: StopToken) -> SegmentationOutput:
        """Run one pass; see `Engine.run`.

        Raises
        ------
        UnknownWeightsError
            If the network has other weights than a plain Swin-UNETR.
        """
        import openvino

        stop.check()
        with self._running:
            request = self._request(tuple(image.shape[2:]), stop)
            contiguous = image.detach().cpu().contiguous().numpy()
            request.set_input_tensor(openvino.Tensor(contiguous, shared_memory=True))
            request.start_async()
            while not request.wait_for(_POLL_MS):
                if stop.is_set():
                    _cancel(request)
                    stop.check()
            logits, features = (torch.from_numpy(request.get_output_tensor(n).data.copy()) for n in (0, 1))
        return SegmentationOutput(logits, features)

    def release(self) -> None:
        """Give back what passes keep in memory; what is compiled stays."""
        with self._running:
            for compiled, _ in self._compiled.values():
                compiled.release_memory()

    def _request(self, shape: tuple[int, ...], stop: StopToken) -> Any:
        key = shape, torch.get_num_threads()
        for other, (compiled, _) in self._compiled.items():
            if other != key:
                compiled.release_memory()
        if key not in self._compiled:
            while len(self._compiled) >= _MOST:
                self._compiled.popitem(last=False)
            compiled = _unless_stopped(lambda: _compile(self.network, shape, self.precision), stop)
            self._compiled[key] = compiled, compiled.create_infer_request()
        self._compiled.move_to_end(key)
        return self._compiled[key][1]


def _compile(network: MultiTaskSwinUNETR, shape: tuple[int, ...], precision: OpenVINOPrecision) -> Any:
    from napari_pcs.inference.openvino_graph import build_model

    x, y, z = shape
    hints = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision],
        "ENABLE_CPU_PINNING": False,  # two processes pinned to the same cores would wait for each other
    }
    return _core().compile_model(build_model(network, (x, y, z)), "CPU", hints)


@lru_cache(maxsize=1)
def _core() -> Any:
    import openvino

    return openvino.Core()


@lru_cache(maxsize=1)
def best_openvino_precision() -> OpenVINOPrecision:
    """Return the precision in which OpenVINO is fastest on this processor.

    Raises
    ------
    ImportError, RuntimeError
        If OpenVINO is installed in part, or for another processor.
    """
    return "bf16" if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"


def _unless_stopped(work: Callable[[], Any], stop: StopToken) -> Any:
    """Return what some work gives; a stop leaves it to end by itself, and its result to nobody."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="pcs-compile")
    try:
        future = pool.submit(work)
        while True:
            try:
                return future.result(timeout=_POLL_MS / 1000)
            except NotYetError:
                if future.done():
                    raise  # a time-out of the work's own
                stop.check()
    finally:
        pool.shutdown(wait=False)


def _cancel(request: Any) -> None:
    request.cancel()
    try:
        request.wait()
    except RuntimeError as error:
        if "cancel" not in str(error).lower():
            raise
