"""Which engine runs a network: OpenVINO on a CPU where it is known to agree, else PyTorch."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast, get_args

from napari_pcs.errors import InputError, ModelError
from napari_pcs.inference.agreement import Agreements
from napari_pcs.inference.openvino_engine import OpenVINOEngine, openvino_version, runs_in_openvino
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.inference.weights import UnknownWeightsError
from napari_pcs.models.device import free_memory
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    import torch

    from napari_pcs.inference.engine import Engine
    from napari_pcs.models.contract import Segmenter

    Shape = tuple[int, int, int]

__all__ = ["ENGINE_VARIABLE", "EngineName", "choose_engine", "prepare_engine"]

EngineName = Literal["auto", "torch", "openvino"]
ENGINE_VARIABLE = "NAPARI_PCS_ENGINE"
"""Names the engine where nothing else does."""
_MEMORY_SHARE = 0.8
_log = logging.getLogger(__name__)


def choose_engine(
    network: Segmenter,
    digest: str,
    device: torch.device,
    *,
    shape: tuple[int, int, int],
    may_prepare: bool = False,
    wanted: EngineName = "auto",
    stop: StopToken | None = None,
) -> Engine:
    """Return what runs a network fastest over images of one shape.

    Parameters
    ----------
    network
        As it was loaded, on the CPU where OpenVINO is to run it. One that is being trained goes to
        `TorchEngine` instead: its weights are no longer those of the digest.
    digest
        Of the model's weights.
    device
        Where PyTorch runs it. OpenVINO computes on the CPU only.
    shape
        Voxels (x, y, z) as they go through the network; see `napari_pcs.inference.run.padded_shape`.
    may_prepare
        Try OpenVINO out where that has not been done: worth it for several cases, or in idle time.
    wanted
        "torch" or "openvino" where the user has chosen; what the variable NAPARI_PCS_ENGINE says if
        left out. An asked for OpenVINO is tried out, and PyTorch runs what it cannot.
    stop
        Ends the trial.

    Raises
    ------
    ModelError
        If OpenVINO is asked for and not installed, or for a device that it does not run on.
    CancelledError
        Soon after `stop` is set.
    """
    wanted = _wanted(wanted)
    if wanted == "openvino":
        _require_openvino(device)
    if wanted == "torch" or device.type != "cpu":
        return TorchEngine(network, device)
    if (may_prepare or wanted == "openvino") and not prepare_engine(network, digest, shape, stop or StopToken()):
        return TorchEngine(network, device)
    engine = _engine(network, digest)
    if engine is not None and _agreements().known(engine, digest, shape):
        return engine
    return TorchEngine(network, device)


def prepare_engine(network: Segmenter, digest: str, shape: tuple[int, int, int], stop: StopToken) -> bool:
    """Have OpenVINO ready for a model and a shape; say whether it is.

    Takes a few seconds for new weights, a pass of PyTorch for a shape that this machine has never run,
    and nothing where both are known. For idle time, or before many cases.

    Raises
    ------
    CancelledError
        Soon after `stop` is set.
    """
    engine = _engine(network, digest)
    if engine is None:
        return False
    known = _agreements().known(engine, digest, shape)
    if known is not None:
        return known
    if TorchEngine(network, engine.device, "fp32").pass_bytes(shape) > _MEMORY_SHARE * free_memory(engine.device):
        _log.info("OpenVINO is not tried out: there is not enough memory for a pass of PyTorch to compare it with.")
        return False
    try:
        return _agreements().try_out(engine, digest, shape, stop)
    except UnknownWeightsError as error:
        _log.info("OpenVINO does not run this model. %s", error)
    except (RuntimeError, MemoryError) as error:
        _log.warning("OpenVINO could not be tried out (%s); PyTorch runs the model.", _first_line(error))
    return False


def _wanted(wanted: EngineName) -> EngineName:
    name = os.environ.get(ENGINE_VARIABLE, "auto") if wanted == "auto" else wanted
    if name not in get_args(EngineName):
        raise InputError(
            found=f"{ENGINE_VARIABLE}={name}",
            expected=f"one of {', '.join(get_args(EngineName))}",
            advice="Change or unset the variable.",
        )
    return cast("EngineName", name)


def _require_openvino(device: torch.device) -> None:
    if openvino_version() is None:
        msg = "Engine openvino: found no OpenVINO, expected it installed. Run `pip install napari-pcs[cpu]`."
        raise ModelError(msg)
    if device.type != "cpu":
        msg = f"Engine openvino: found the device {device.type}, expected the CPU. Choose the device cpu."
        raise ModelError(msg)


def _engine(network: Segmenter, digest: str) -> OpenVINOEngine | None:
    if not runs_in_openvino(network) or next(network.parameters()).device.type != "cpu":
        return None
    assert isinstance(network, MultiTaskSwinUNETR)  # noqa: S101  see `runs_in_openvino`
    engine = _kept_engine(network, digest)
    try:
        _log.debug("%s is installed.", engine.name)
    except (ImportError, RuntimeError) as error:  # installed in part, or for another processor
        _log.warning("OpenVINO is installed and does not start (%s); PyTorch runs the model.", _first_line(error))
        return None
    return engine


@lru_cache(maxsize=1)
def _kept_engine(network: MultiTaskSwinUNETR, digest: str) -> OpenVINOEngine:  # noqa: ARG001  other weights, another one
    return OpenVINOEngine(network)


@lru_cache(maxsize=1)
def _agreements() -> Agreements:
    return Agreements()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
