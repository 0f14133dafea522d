"""Predictions that are kept, so that a case which was predicted before opens with its labels.

An entry belongs to one image, one model and one mode of the network. Whatever else a prediction says
follows from these, or is measured anew: the length from the case's commissures by the asked protocol.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from napari_pcs import __version__
from napari_pcs.anatomy.length import Measurement, measure_case
from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset
from napari_pcs.case import Case
from napari_pcs.data.bundles import bundle_key
from napari_pcs.labels import PcsClass
from napari_pcs.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_pcs.data.bundles import Bundle, Bundles
    from napari_pcs.provenance import ModelReference

__all__ = ["KeptPredictions", "Mode", "image_digest"]

Mode = Literal["whole", "windows"]
_RULES = f"prediction 2 by napari-pcs {__version__}"
"""Another release may bring a hemisphere onto the grid, or choose labels, in another way."""
_SPACING_DIGITS = 6
"""Of a voxel's size in mm: a header's float32 and the same number in float64 are one image."""
_Box = tuple[slice, slice, slice]


def image_digest(case: Case) -> str:
    """Return a digest (hex SHA-256) of all that a network sees of a case: tissue, voxel size and side.

    Name, labels, displayed image, position in the world and commissures are not part of it.
    """
    tissue = case.tissue.data
    if tissue.dtype != np.uint8 and np.array_equal(small := tissue.astype(np.uint8), tissue):
        tissue = small
    spacing = " ".join(f"{size:.{_SPACING_DIGITS}f}" for size in case.tissue.spacing)
    return bundle_key("image", tissue, spacing, case.key.hemisphere.value)


class KeptPredictions:
    """Predictions in a folder of bundles.

    Parameters
    ----------
    bundles
        Where they are kept; see `napari_pcs.caches.prediction_cache`.
    """

    def __init__(self, bundles: Bundles) -> None:
        self.bundles = bundles

    def get(
        self, case: Case, model: ModelReference, preset: ClassPreset = DEFAULT_PRESET, mode: Mode | None = None
    ) -> Prediction | None:
        """Return what a model said of a case, or None if that is not known.

        Labels, uncertainty and class probabilities are those of the original prediction, exactly;
        probabilities are rounded to float16. Timings, peak memory, device and engine are those of
        the time when the network ran, and `kept` is True.

        Parameters
        ----------
        case
            The hemisphere.
        model
            Model, by its digest; the name may have changed.
        preset
            Protocol for length and class. They are measured anew unless case and protocol are those
            that the prediction was measured with.
        mode
            How the network must have seen the hemisphere; None takes either, rather the whole.
        """
        image = image_digest(case)
        for candidate in (mode,) if mode else get_args(Mode):
            bundle = self.bundles.read(_key(image, model.digest, candidate))
            if bundle is not None and _is_of(bundle.note, image, model.digest, candidate):
                return _prediction(bundle, case, model, preset)
        return None

    def put(self, case: Case, prediction: Prediction, preset: ClassPreset = DEFAULT_PRESET) -> bool:
        """Keep a prediction; say whether it is kept.

        Parameters
        ----------
        case
            The hemisphere.
        prediction
            What a model said of it.
        preset
            Protocol of the prediction's measurement.
        """
        image, digest = image_digest(case), prediction.model.digest
        box = _content(prediction)
        arrays: dict[str, NDArray[Any]] = {
            "labels": prediction.labels[box],
            "probabilities": prediction.probabilities[box].astype(np.float16),
        }
        note = {
            "image": image,
            "model": digest,
            "mode": prediction.mode,
            "box": [[side.start, side.stop] for side in box],
            "class_probabilities": {k.value: v for k, v in prediction.class_probabilities.items()},
            "uncertainty": prediction.uncertainty,
            "timings_s": dict(prediction.timings_s),
            "peak_memory_mb": prediction.peak_memory_mb,
            "device": prediction.device,
            "engine": prediction.engine,
            "route": prediction.route,
            "measured": _measured(case, prediction.measurement, preset),
        }
        return self.bundles.write(_key(image, digest, prediction.mode), arrays, note)

    def has(self, case: Case | str, model_digest: str, mode: Mode | None = None) -> bool:
        """Say whether a prediction is kept, without reading it.

        Parameters
        ----------
        case
            The hemisphere, or its `image_digest`.
        model_digest
            Of the model's weights.
        mode
            How the network must have seen the hemisphere; None takes either.
        """
        image = image_digest(case) if isinstance(case, Case) else case
        modes: tuple[Mode, ...] = (mode,) if mode else get_args(Mode)
        return any(self.bundles.has(_key(image, model_digest, candidate)) for candidate in modes)


def _key(image: str, model_digest: str, mode: Mode) -> str:
    return bundle_key(_RULES, image, model_digest, mode)


def _is_of(note: Mapping[str, Any], image: str, model_digest: str, mode: Mode) -> bool:
    return (note.get("image"), note.get("model"), note.get("mode")) == (image, model_digest, mode)


def _content(prediction: Prediction) -> _Box:
    """Return the box outside which nothing is said: an image is mostly air and the other hemisphere."""
    said = prediction.probabilities.any(axis=-1) | (prediction.labels > 0)
    spans = [np.flatnonzero(said.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    x, y, z = (slice(int(span[0]), int(span[-1]) + 1) if len(span) else slice(0, 0) for span in spans)
    return x, y, z


def _measured(case: Case, measurement: Measurement | None, preset: ClassPreset) -> dict[str, Any] | None:
    """Return a measurement with all that it depends on beside the labels; None if that is not known."""
    if measurement is None or measurement.preset != preset.name or case.commissures is None:
        return None
    return {"measurement": measurement.model_dump(mode="json"), "with": _yardstick(case, preset)}


def _yardstick(case: Case, preset: ClassPreset) -> dict[str, Any]:
    commissures = case.commissures.model_dump(mode="json") if case.commissures else None
    return {
        "affine": case.tissue.affine.tolist(),
        "commissures": commissures,
        "preset": preset.model_dump(mode="json"),
    }


def _measurement(
    note: Mapping[str, Any], case: Case, labels: NDArray[np.uint8], preset: ClassPreset
) -> Measurement | None:
    measured = note["measured"]
    if measured is not None and measured["with"] == _yardstick(case, preset):
        return Measurement.model_validate(measured["measurement"])
    return measure_case(case, labels, preset)


def _prediction(bundle: Bundle, case: Case, model: ModelReference, preset: ClassPreset) -> Prediction:
    note = bundle.note
    x, y, z = (slice(first, last) for first, last in note["box"])
    labels = np.zeros(case.tissue.shape, np.uint8)
    labels[x, y, z] = bundle.arrays["labels"]
    probabilities = np.zeros((*case.tissue.shape, 2), np.float32)
    probabilities[x, y, z] = bundle.arrays["probabilities"]
    return Prediction(
        labels=labels,
        probabilities=probabilities,
        class_probabilities=MappingProxyType({PcsClass(k): v for k, v in note["class_probabilities"].items()}),
        measurement=_measurement(note, case, labels, preset),
        uncertainty=note["uncertainty"],
        timings_s=MappingProxyType(note["timings_s"]),
        peak_memory_mb=note["peak_memory_mb"],
        device=note["device"],
        mode=note["mode"],
        model=model,
        engine=note["engine"],
        route=note["route"],
        kept=True,
    )
