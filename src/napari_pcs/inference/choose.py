"""Which engine runs a network: OpenVINO on a CPU where it is known to agree, else PyTorch."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Literal, cast, get_args

from napari_pcs.errors import InputError, ModelError
from napari_pcs.inference.agreement import PROBE, Agreements
from napari_pcs.inference.openvino_engine import (
    OpenVINOEngine,
    best_openvino_precision,
    openvino_version,
    runs_in_openvino,
)
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.inference.weights import UnknownWeightsError
from napari_pcs.models.device import free_memory, is_out_of_memory

if TYPE_CHECKING:
    import torch

    from napari_pcs.inference.engine import Engine
    from napari_pcs.inference.openvino_engine import OpenVINOPrecision
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.stop import StopToken

    Shape = tuple[int, int, int]

__all__ = ["ENGINE_VARIABLE", "EngineName", "Engines", "engine_name"]

EngineName = Literal["auto", "torch", "openvino"]
ENGINE_VARIABLE = "NAPARI_PCS_ENGINE"
"""Names the engine where nothing else does."""
_PAYS_FROM = 4 * prod(PROBE)
"""Voxels: the trial of new weights takes a pass of PyTorch over the probe and two shapes to compile."""
_MEMORY_SHARE = 0.8
_log = logging.getLogger(__name__)


class Engines:
    """What can run one network on one device; asked for an engine for every image.

    Parameters
    ----------
    network
        As it was loaded. One that is being trained is for a `TorchEngine` of its own: its weights are
        no longer those of the digest.
    digest
        Of the model's weights.
    device
        Where PyTorch runs it. OpenVINO computes on the CPU only.
    wanted
        "torch" or "openvino" where the user has chosen; if "auto", what the variable NAPARI_PCS_ENGINE
        says. PyTorch runs what an asked for OpenVINO cannot.
    agreements
        Trials of OpenVINO; those in the cache folder if left out.

    Raises
    ------
    InputError
        If the name or the variable is none of the three.
    ModelError
        If OpenVINO is asked for and not installed, or for a device that it does not run on.
    """

    def __init__(
        self,
        network: Segmenter,
        digest: str,
        device: torch.device,
        wanted: str = "auto",
        agreements: Agreements | None = None,
    ) -> None:
        self.network, self.digest, self.device, self.wanted = network, digest, device, engine_name(wanted)
        if self.wanted == "openvino":
            _require_openvino(device)
        self._agreements = agreements or Agreements()
        self._refused = False

    @cached_property
    def plain(self) -> TorchEngine:
        """PyTorch's engine."""
        return TorchEngine(self.network, self.device)

    def for_shape(self, shape: Shape, stop: StopToken, *, idle: bool = False) -> Engine:
        """Return what runs the network fastest over images of one shape.

        Weights that OpenVINO has never run on this machine are tried first if that takes less than it
        saves for this one image, or in idle time.

        Parameters
        ----------
        shape
            Voxels (x, y, z) as they go through the network; see `run.padded_shape`.
        stop
            Ends a trial.
        idle
            Nobody waits: also compare a pass over the whole shape with PyTorch's, unless that is known.

        Raises
        ------
        CancelledError
            Soon after `stop` is set.
        """
        agreeing = (engine for engine in self._openvino if self._agrees(engine, shape, stop, idle=idle))
        return next(agreeing, self.plain)

    def place(self) -> None:
        """Bring a copy of the weights to a GPU, so that the first image need not wait for it.

        Raises
        ------
        RuntimeError
            If the GPU has failed. If it has no room, images are seen to when they come.
        """
        if self.device.type == "cpu":
            return
        try:
            self.plain.place()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            _log.warning("The model does not fit on %s (%s).", self.device.type, _first_line(error))

    def try_out(self, stop: StopToken) -> None:
        """Try the network's weights in OpenVINO unless that is known; a few seconds, for idle time."""
        self.for_shape(PROBE, stop, idle=True)

    def _agrees(self, engine: OpenVINOEngine, shape: Shape, stop: StopToken, *, idle: bool) -> bool:
        if self._refused:
            return False
        try:
            known = self._agreements.known(engine, self.digest, shape)
            if known is None and (idle or self.wanted == "openvino" or prod(shape) >= _PAYS_FROM):
                known = self._agreements.try_weights(engine, self.digest, stop)
            if known and idle and shape != PROBE and self._has_room_to_compare(shape):
                known = self._agreements.try_shape(engine, shape, stop)
        except UnknownWeightsError as error:
            self._refused = True
            _log.info("OpenVINO does not run this model. %s", error)
            return False
        except (RuntimeError, MemoryError) as error:
            self._refused = not is_out_of_memory(error)
            _log.warning("OpenVINO could not be tried out (%s); PyTorch runs the model.", _first_line(error))
            return False
        return bool(known)

    def _has_room_to_compare(self, shape: Shape) -> bool:
        needed = TorchEngine(self.network, self.device, "fp32").pass_bytes(shape)
        return needed < _MEMORY_SHARE * free_memory(self.device)

    @cached_property
    def _openvino(self) -> tuple[OpenVINOEngine, ...]:
        """OpenVINO's engines, the fastest first: in half precision some weights label other voxels."""
        if self.wanted == "torch" or self.device.type != "cpu" or not runs_in_openvino(self.network):
            return ()
        try:
            best = best_openvino_precision()
        except (ImportError, RuntimeError) as error:
            _log.warning("OpenVINO is installed and does not start (%s); PyTorch runs the model.", _first_line(error))
            return ()
        precisions: tuple[OpenVINOPrecision, ...] = ("fp32",) if best == "fp32" else (best, "fp32")
        return tuple(OpenVINOEngine(self.network, precision) for precision in precisions)


def engine_name(wanted: str = "auto") -> EngineName:
    """Return the engine that was asked for, by name or by the variable NAPARI_PCS_ENGINE.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    name = os.environ.get(ENGINE_VARIABLE, "").strip() or "auto" if wanted == "auto" else wanted
    if name not in get_args(EngineName):
        raise InputError(
            found=f"the engine {name}",
            expected=f"one of {', '.join(get_args(EngineName))}",
            advice=f"Correct --engine, or the environment variable {ENGINE_VARIABLE}.",
        )
    return cast("EngineName", name)


def _require_openvino(device: torch.device) -> None:
    if openvino_version() is None:
        msg = "Engine openvino: found no OpenVINO, expected it installed. Run `pip install napari-pcs[cpu]`."
        raise ModelError(msg)
    if device.type != "cpu":
        msg = f"Engine openvino: found the device {device.type}, expected the CPU. Choose the device cpu."
        raise ModelError(msg)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
