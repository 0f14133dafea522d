"""From a case to labels, probabilities, class and length: one network pass over the hemisphere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage
from torch import Tensor

from napari_pcs.anatomy.frame import HemisphereFrame, estimate_frame
from napari_pcs.anatomy.grid import NetworkGrid, on_grid
from napari_pcs.anatomy.length import MIN_PIECE_VOXELS, Measurement, measure_case
from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset
from napari_pcs.case import Case, LabelRole
from napari_pcs.errors import ModelError
from napari_pcs.labels import PcsClass
from napari_pcs.metrics.resources import MemoryWatch
from napari_pcs.models.device import free_memory
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.interrupt import interruptible
from napari_pcs.provenance import ModelReference, Provenance
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_pcs.models.contract import SegmentationOutput, Segmenter

__all__ = ["NetworkInput", "Prediction", "Stage", "network_input", "predict", "predict_steps", "run_network"]

WINDOW = (96, 96, 96)
MIN_PCS_MM3 = 20.0
"""Smaller pieces of predicted PCS are dropped: half of what the starter's weak labels hold at least."""
_MEMORY_SHARE = 0.8
_CUBE = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Stage:
    """What is being done, for a progress display."""

    name: Literal["prepare", "network", "postprocess"]
    sentence: str


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """One hemisphere on the network's grid.

    Attributes
    ----------
    image
        (channel, x, y, z) float32: tissue in [0, 1], then position.
    grid
        The way back to the hemisphere's own grid.
    """

    image: NDArray[np.float32]
    grid: NetworkGrid


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything that a model says of one hemisphere.

    Attributes
    ----------
    labels
        uint8 on the image's own RAS grid: 0, 1 skeleton, 2 PCS.
    probabilities
        float32 (x, y, z, 2) on the same grid: skeleton, PCS.
    class_probabilities
        The class head's own opinion, independent of the length.
    measurement
        Length of the labelled PCS and the class that the preset gives it; None where nobody knows
        the case's commissures.
    uncertainty
        Mean binary entropy (bits) of PCS given skeleton, where PCS is thinkable (P >= 0.05).
    timings_s
        Seconds in prepare, network, postprocess and total.
    mode
        "whole" (one padded pass) or "windows".
    engine
        Library and precision that ran the network.
    kept
        Whether it was read from what is kept; timings are then those of the time when the network ran.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    class_probabilities: MappingProxyType[PcsClass, float]
    measurement: Measurement | None
    uncertainty: float
    timings_s: MappingProxyType[str, float]
    peak_memory_mb: float
    device: str
    mode: Literal["whole", "windows"]
    model: ModelReference
    engine: str = "PyTorch fp32"
    kept: bool = False

    def add_to(self, case: Case) -> Case:
        """Return the case with these labels as its prediction."""
        return case.with_labels(LabelRole.PREDICTED, self.labels, self.provenance(case))

    def provenance(self, case: Case) -> Provenance:
        """Return the origin of these labels."""
        sources = (str(case.tissue.path),) if case.tissue.path else ()
        return Provenance(manual=False, hemisphere=case.key.hemisphere.value, sources=sources, model=self.model)


def frame_of(case: Case) -> HemisphereFrame:
    """Estimate the frame of a case from its tissue."""
    return estimate_frame(case.tissue.data > 0, case.tissue.spacing, case.key.hemisphere)


def network_input(case: Case, *, position: bool) -> NetworkInput:
    """Bring a case onto the network's grid, mirrored if it is a right hemisphere."""
    tissue, grid = on_grid(case.tissue, case.key.hemisphere)
    return NetworkInput(np.concatenate([tissue[None], grid.position()]) if position else tissue[None], grid)


def pad_to_multiple(image: Tensor, multiple: int = 32) -> Tensor:
    """Pad the last three sides with zeros, at their ends, to a multiple; of 32 a network can halve five times."""
    missing = [-n % multiple for n in image.shape[-3:]]
    return torch.nn.functional.pad(image, [p for n in reversed(missing) for p in (0, n)])


def run_network(
    network: Segmenter, image: NDArray[np.float32], device: torch.device, stop: StopToken
) -> tuple[NDArray[np.float32], NDArray[np.float32], Literal["whole", "windows"]]:
    """Return probabilities (2, x, y, z), class probabilities (3,) and the mode that was used.

    The whole hemisphere goes through at once if memory allows, else in overlapping windows; the
    two are not quite the same function, because normalisation follows the field of view.

    Raises
    ------
    ModelError
        If the device has too little memory even for one window.
    """
    size = tuple(image.shape[1:])
    padded = pad_to_multiple(torch.from_numpy(image)[None], network.side_multiple)
    needed = network.pass_bytes(padded[0, 0].numel())
    with torch.inference_mode(), interruptible(network, stop):
        network.to(device).eval()
        whole = needed < _MEMORY_SHARE * free_memory(device)
        if whole:
            try:
                logits, features = network(padded.to(device))
            except torch.OutOfMemoryError:
                whole = False
        if not whole:
            try:
                logits, features = _windows(network, padded, device)
            except torch.OutOfMemoryError as error:
                msg = f"The {device.type} device ran out of memory; close other programs, or choose the CPU."
                raise ModelError(msg) from error
        x, y, z = size
        probabilities = channel_probabilities(logits)[:, :, :x, :y, :z]
        classes = network.classify(features, probabilities[:, 1].sum(dim=(1, 2, 3))).softmax(dim=1)
        return probabilities[0].float().cpu().numpy(), classes[0].float().cpu().numpy(), "whole" if whole else "windows"


def predict_steps(
    case: Case,
    network: Segmenter,
    model: ModelReference,
    device: torch.device,
    *,
    preset: ClassPreset = DEFAULT_PRESET,
    stop: StopToken | None = None,
) -> Iterator[Stage | Prediction]:
    """Predict one case, yielding each stage as it begins and the prediction in the end.

    Raises
    ------
    InputError
        If the tissue is not that of one hemisphere.
    CancelledError
        Soon after `stop` is set.
    """
    stop = stop or StopToken()
    clock = [time.perf_counter()]
    with MemoryWatch(device) as memory:
        yield Stage("prepare", "Bringing the hemisphere onto the network's grid")
        prepared = network_input(case, position=network.config.in_channels > network.config.image_channels)
        clock.append(time.perf_counter())
        stop.check()
        yield Stage("network", f"Running {model.name} on {device.type}")
        probabilities, classes, mode = run_network(network, prepared.image, device, stop)
        clock.append(time.perf_counter())
        yield Stage("postprocess", "Measuring the PCS")
        own = np.stack([prepared.grid.push(channel) for channel in probabilities], axis=-1)
        stop.check()
        labels = labels_from(own, min_voxels=_min_voxels(case))
        measurement = measure_case(case, labels, preset)
        clock.append(time.perf_counter())
    stages = dict(zip(("prepare", "network", "postprocess"), np.diff(clock).tolist(), strict=True))
    yield Prediction(
        labels=labels,
        probabilities=own,
        class_probabilities=MappingProxyType(dict(zip(PcsClass.measured(), classes.tolist(), strict=True))),
        measurement=measurement,
        uncertainty=_uncertainty(probabilities),
        timings_s=MappingProxyType({**stages, "total": clock[-1] - clock[0]}),
        peak_memory_mb=memory.peak_mb,
        device=device.type,
        mode=mode,
        model=model,
    )


def predict(case: Case, network: Segmenter, model: ModelReference, device: torch.device, **options: Any) -> Prediction:
    """Predict one case; see `predict_steps`."""
    *_, prediction = predict_steps(case, network, model, device, **options)
    assert isinstance(prediction, Prediction)  # noqa: S101  the generator ends with it
    return prediction


def labels_from(probabilities: NDArray[np.float32], *, min_voxels: int = MIN_PIECE_VOXELS) -> NDArray[np.uint8]:
    """Label voxels from probabilities (x, y, z, 2): skeleton from 0.5, PCS where it is the likelier skeleton.

    Pieces of PCS of fewer than `min_voxels` become skeleton again: bridged into a chain, a few
    stray specks would add centimetres to its length.
    """
    skeleton = probabilities[..., 0] >= 0.5
    pcs = skeleton & (probabilities[..., 1] >= 0.5 * probabilities[..., 0])
    pieces, _ = ndimage.label(pcs, _CUBE)
    large = np.bincount(pieces.ravel()) >= min_voxels
    large[0] = False
    return np.asarray(skeleton.astype(np.uint8) + large[pieces], dtype=np.uint8)


def _min_voxels(case: Case) -> int:
    return max(MIN_PIECE_VOXELS, round(MIN_PCS_MM3 / float(np.prod(case.tissue.spacing))))


def _uncertainty(probabilities: NDArray[np.float32]) -> float:
    skeleton, pcs = probabilities
    thinkable = pcs >= 0.05
    if not thinkable.any():
        return 0.0
    p = np.clip(pcs[thinkable] / skeleton[thinkable], 1e-6, 1 - 1e-6)
    return float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p)))


def _windows(network: Segmenter, image: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    features: list[Tensor] = []

    def one(window: Tensor) -> Tensor:
        out: SegmentationOutput = network(window)
        features.append(out.features)
        return out.logits

    logits = sliding_window_inference(
        image, WINDOW, 1, one, overlap=0.5, mode="gaussian", sw_device=device, device=torch.device("cpu")
    )
    return logits.to(device), torch.stack(features).mean(dim=0)
