"""Whole journeys that the command line and the GUI share: predict a file, evaluate folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.anatomy.extraction import extract_skeleton
from napari_pcs.anatomy.landmarks import commissures_in_file
from napari_pcs.anatomy.length import measure_case
from napari_pcs.bids import parse_key
from napari_pcs.case import Case, LabelRole, check_labels
from napari_pcs.errors import InputError
from napari_pcs.metrics.report import CaseReport, Summary, compare, compare_in, summarise
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_pcs.anatomy.length import Measurement
    from napari_pcs.bids import CaseKey
    from napari_pcs.prediction import Prediction
    from napari_pcs.session import Session

__all__ = [
    "evaluate",
    "extract_skeleton",
    "prediction_record",
    "report_on",
    "store_prediction",
    "stored_record",
]

_NOT_LABELS = ("_probseg.nii", "_mask.nii", "_desc-gw_dseg.nii", "_desc-folds_dseg.nii", "_T1w.nii")
_PREFERRED = {"predicted": ("desc-pred_dseg",), "reference": ("desc-corr_dseg", "desc-ref_dseg")}


def store_prediction(
    session: Session, case: Case, prediction: Prediction, source: Path | None = None, *, read_s: float | None = None
) -> tuple[Case, dict[str, str]]:
    """Write a prediction into a session; return the case with it and the paths written.

    Parameters
    ----------
    session
        Where to.
    case
        The hemisphere; added to the session if it does not have it.
    prediction
        What a model says of it.
    source
        The file or folder that the case was read from; see `Session.add`.
    read_s
        What reading it took, in seconds.
    """
    predicted = prediction.add_to(case)
    session.add(case, source)
    said = prediction_record(case, prediction, read_s=read_s)
    return predicted, session.write_prediction(predicted, prediction.probabilities, said)


def stored_record(session: Session, key: CaseKey) -> dict[str, Any]:
    """Return the JSON object of a case whose prediction the session has; `skipped` is true.

    Lengths are those by the commissures that the session has now; figures that nobody has written
    down are None.

    Raises
    ------
    InputError
        If a file of the case is damaged.
    """
    said = session.said_of(key)
    if said is None:
        case = session.load(key)
        predicted = case.labels[LabelRole.PREDICTED]
        model = predicted.provenance.model
        said = {
            "case": key.stem,
            "hemisphere": key.hemisphere.value,
            "class_probabilities": None,
            **_measured(case, measure_case(case, predicted.data)),
            **dict.fromkeys(("uncertainty", "timings_s", "peak_memory_mb", "device", "mode", "route")),
            "model": model.model_dump() if model else None,
            "outputs": session.outputs(key),
        }
    return {**said, "skipped": True}


def prediction_record(
    case: Case, prediction: Prediction, *, read_s: float | None, outputs: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the JSON object of one predicted case."""
    timings = {"read": read_s, **prediction.timings_s}
    timings["total"] = (read_s or 0.0) + prediction.timings_s["total"]
    return {
        "case": case.key.stem,
        "hemisphere": case.key.hemisphere.value,
        "class_probabilities": {k.value: v for k, v in prediction.class_probabilities.items()},
        **_measured(case, prediction.measurement),
        "uncertainty": prediction.uncertainty,
        "timings_s": timings,
        "peak_memory_mb": prediction.peak_memory_mb,
        "device": prediction.device,
        "mode": prediction.mode,
        "route": prediction.route,
        "model": prediction.model.model_dump(),
        "outputs": outputs,
    }


def _measured(case: Case, measured: Measurement | None) -> dict[str, Any]:
    return {
        "class": measured.pcs_class if measured else None,
        "length_mm": measured.length_mm if measured else None,
        "gaps_mm": measured.gaps_mm if measured else None,
        "preset": measured.preset if measured else None,
        "commissures": case.commissures.source if case.commissures else None,
    }


def evaluate(predicted: Path, reference: Path) -> Summary:
    """Compare two label files, or every case that two folders share.

    In a session the predictions are the `desc-pred` labels, and the references its corrections or,
    failing those, its references; a folder without such names is taken as a folder of label maps.

    Raises
    ------
    InputError
        If nothing matches, or a pair lies on different grids.
    """
    if predicted.is_file() and reference.is_file():
        pairs = {predicted.name.split(".")[0]: (predicted, reference)}
    else:
        ours, theirs = _find(predicted, "predicted"), _find(reference, "reference")
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            raise InputError(
                found=f"{len(ours)} predicted and {len(theirs)} reference cases with none in common",
                expected="label maps of the same subjects and hemispheres",
                advice="Cases are matched by sub-, ses- and hemi- in the file name.",
                path=predicted,
            )
        pairs = {name: (ours[name], theirs[name]) for name in shared}
    return summarise(_compare_files(name, *pair) for name, pair in pairs.items())


def _compare_files(name: str, predicted: Path, reference: Path) -> CaseReport:
    ours, theirs = (Volume.read(path, may_be_empty=True) for path in (predicted, reference))
    check_same_grid(theirs, ours, "predicted labels")
    known = commissures_in_file(theirs) or commissures_in_file(ours)
    return compare(
        name,
        check_labels(ours.data),
        check_labels(theirs.data),
        theirs.spacing,
        affine=theirs.affine,
        commissures=known,
    )


def _find(folder: Path, role: str) -> dict[str, Path]:
    """Label maps of a folder by case; earlier preferences win."""
    if not folder.is_dir():
        raise InputError(found="no such folder", expected="a folder of label maps, or two files", path=folder)
    files = [p for p in sorted(folder.rglob("*.nii*")) if not any(part in p.name for part in _NOT_LABELS)]
    named = [[p for p in files if wanted in p.name] for wanted in _PREFERRED[role]]
    chosen: dict[str, Path] = {}
    for group in named if any(named) else [files]:
        for path in group:
            chosen.setdefault(_name(path), path)
    return chosen


def _name(path: Path) -> str:
    """Return what pairs a file with another: its case, or its name where that does not say the side."""
    try:
        return parse_key(path).stem
    except InputError:
        return path.name.split(".")[0]


def report_on(case: Case, predicted: NDArray[np.uint8]) -> tuple[str, CaseReport]:
    """Compare a prediction with the best that is known of its case.

    Returns
    -------
    tuple
        What it was compared with: "correction", "reference", or "skeleton extracted from the tissue
        map" where nobody has labelled the case (its PCS figures then mean nothing and are missing);
        and the report.
    """
    if case.truth is not None:
        role, truth = case.truth
        against = {LabelRole.CORRECTED: "correction", LabelRole.REFERENCE: "reference"}[role]
        return against, compare_in(case, predicted, truth.data)
    extracted = extract_skeleton(case).astype(np.uint8)
    report = compare_in(case, predicted, extracted)
    unknown = report.model_copy(
        update={
            "labels": {"skeleton": report.labels["skeleton"]},
            "reference_length_mm": None,
            "length_error_mm": None,
            "reference_class": None,
        }
    )
    return "skeleton extracted from the tissue map", unknown
