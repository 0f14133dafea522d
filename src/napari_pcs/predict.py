"""From a case to labels, probabilities, class and length: one network pass over the hemisphere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.anatomy.frame import HemisphereFrame, estimate_frame
from napari_pcs.anatomy.grid import NetworkGrid, on_grid
from napari_pcs.anatomy.length import measure_case
from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset
from napari_pcs.inference.labelling import labels_from, least_voxels, uncertainty_of
from napari_pcs.inference.run import padded_shape, segment_hemisphere
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.labels import PcsClass
from napari_pcs.metrics.resources import MemoryWatch
from napari_pcs.prediction import Prediction, Stage
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray

    from napari_pcs.case import Case
    from napari_pcs.inference.choose import Engines
    from napari_pcs.inference.engine import Engine
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.provenance import ModelReference

__all__ = ["NetworkInput", "Prediction", "Stage", "network_input", "predict", "predict_steps"]


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


def frame_of(case: Case) -> HemisphereFrame:
    """Estimate the frame of a case from its tissue."""
    return estimate_frame(case.tissue.data > 0, case.tissue.spacing, case.key.hemisphere)


def network_input(case: Case, *, position: bool) -> NetworkInput:
    """Bring a case onto the network's grid, mirrored if it is a right hemisphere."""
    tissue, grid = on_grid(case.tissue, case.key.hemisphere)
    return NetworkInput(np.concatenate([tissue[None], grid.position()]) if position else tissue[None], grid)


def predict_steps(
    case: Case,
    network: Segmenter,
    model: ModelReference,
    device: torch.device,
    *,
    engines: Engines | None = None,
    idle: bool = False,
    preset: ClassPreset = DEFAULT_PRESET,
    stop: StopToken | None = None,
) -> Iterator[Stage | Prediction]:
    """Predict one case, yielding each stage as it begins and the prediction in the end.

    Parameters
    ----------
    case
        The hemisphere.
    network
        What is run, with the weights that it has now.
    model
        What the network is called.
    device
        Where it is run.
    engines
        Of the same network and device, where it is as it was loaded: OpenVINO may be faster. PyTorch
        runs it if left out.
    idle
        Nobody waits: what is not known of an engine for this shape is tried out first. The time of
        trials is that of "prepare".
    preset
        Protocol for length and class.
    stop
        Checked often.

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
        stop.check()
        yield Stage("network", f"Running {model.name} on {device.type}")
        if engines is None:
            engine: Engine = TorchEngine(network, device)
        else:
            engine = engines.for_shape(padded_shape(prepared.image, network), stop, idle=idle)
        clock.append(time.perf_counter())
        probabilities, classes, route = segment_hemisphere(engine, prepared.image, stop)
        clock.append(time.perf_counter())
        yield Stage("postprocess", "Measuring the PCS")
        own = np.stack([prepared.grid.push(channel) for channel in probabilities], axis=-1)
        stop.check()
        labels = labels_from(own, min_voxels=least_voxels(case.tissue.spacing))
        measurement = measure_case(case, labels, preset)
        clock.append(time.perf_counter())
    stages = dict(zip(("prepare", "network", "postprocess"), np.diff(clock).tolist(), strict=True))
    yield Prediction(
        labels=labels,
        probabilities=own,
        class_probabilities=MappingProxyType(dict(zip(PcsClass.measured(), classes.tolist(), strict=True))),
        measurement=measurement,
        uncertainty=uncertainty_of(probabilities),
        timings_s=MappingProxyType({**stages, "total": clock[-1] - clock[0]}),
        peak_memory_mb=memory.peak_mb,
        device=route.device,
        mode=route.mode,
        model=model,
        engine=route.engine,
        route=route.sentence,
    )


def predict(case: Case, network: Segmenter, model: ModelReference, device: torch.device, **options: Any) -> Prediction:
    """Predict one case; see `predict_steps`."""
    *_, prediction = predict_steps(case, network, model, device, **options)
    assert isinstance(prediction, Prediction)  # noqa: S101  the generator ends with it
    return prediction
