"""Every figure for a case, their mean over cases, and the table on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from napari_pcs.anatomy.length import measure
from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset
from napari_pcs.errors import InputError
from napari_pcs.labels import Label
from napari_pcs.metrics.distance import surface_distances
from napari_pcs.metrics.overlap import cldice, dice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from napari_pcs.case import Case
    from napari_pcs.commissures import Commissures

__all__ = ["CaseReport", "LabelMetrics", "Summary", "compare", "compare_in", "summarise", "table"]

NSD_TOLERANCE_MM = 1.0
LabelName = Literal["skeleton", "pcs"]
LABEL_NAMES: tuple[LabelName, ...] = ("skeleton", "pcs")
_FIGURES = ("dice", "nsd_1mm", "hd_mm", "hd95_mm", "assd_mm", "cldice")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelMetrics(_Frozen):
    """Agreement on one label; None is missing, never 0.

    Both masks empty is agreement without figures; one of them empty is Dice, NSD and clDice 0 with
    the distances undefined.
    """

    outcome: Literal["compared", "both_empty", "one_empty"]
    dice: float | None = None
    nsd_1mm: float | None = None
    hd_mm: float | None = None
    hd95_mm: float | None = None
    assd_mm: float | None = None
    cldice: float | None = None


class CaseReport(_Frozen):
    """Agreement of two label maps of one hemisphere; a figure without a reference is None."""

    case: str
    labels: dict[LabelName, LabelMetrics]
    length_mm: float | None = None
    reference_length_mm: float | None = None
    length_error_mm: float | None = None
    pcs_class: str | None = None
    reference_class: str | None = None


class Summary(_Frozen):
    """Means over cases, and how many cases they rest on."""

    cases: tuple[CaseReport, ...]
    mean: dict[str, dict[str, float | None] | float | None]
    counts: dict[str, int]
    counts_by_label: dict[LabelName, dict[str, int]]


def compare(
    name: str,
    predicted: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    *,
    affine: NDArray[np.floating] | None = None,
    commissures: Commissures | None = None,
    preset: ClassPreset = DEFAULT_PRESET,
) -> CaseReport:
    """Compare two label maps on one grid, axes (x, y, z).

    Lengths and classes are compared only if the grid's affine and the commissures are given.

    Raises
    ------
    InputError
        If their shapes differ.
    """
    if predicted.shape != reference.shape:
        raise InputError(
            found=f"{name}: labels of shape {predicted.shape}", expected=f"the reference's shape {reference.shape}"
        )
    masks: dict[LabelName, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {
        "skeleton": (predicted >= Label.SKELETON, reference >= Label.SKELETON),
        "pcs": (predicted == Label.PCS, reference == Label.PCS),
    }
    metrics = {label: _metrics(*pair, spacing) for label, pair in masks.items()}
    if affine is None or commissures is None:
        return CaseReport(case=name, labels=metrics)
    ours, theirs = (measure(labels, affine, commissures, preset) for labels in (predicted, reference))
    return CaseReport(
        case=name,
        labels=metrics,
        length_mm=ours.length_mm,
        reference_length_mm=theirs.length_mm,
        length_error_mm=ours.length_mm - theirs.length_mm,
        pcs_class=ours.pcs_class,
        reference_class=theirs.pcs_class,
    )


def compare_in(case: Case, predicted: NDArray[np.uint8], reference: NDArray[np.uint8]) -> CaseReport:
    """Compare two label maps of a case, lengths included where its commissures are known."""
    tissue = case.tissue
    return compare(
        case.key.stem,
        predicted,
        reference,
        tissue.spacing,
        affine=tissue.affine,
        commissures=case.commissures,
    )


def _metrics(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> LabelMetrics:
    if not predicted.any() and not reference.any():
        return LabelMetrics(outcome="both_empty")
    distances = surface_distances(predicted, reference, spacing)
    if distances is None:
        return LabelMetrics(outcome="one_empty", dice=0.0, nsd_1mm=0.0, cldice=0.0)
    return LabelMetrics(
        outcome="compared",
        dice=dice(predicted, reference),
        nsd_1mm=distances.nsd(NSD_TOLERANCE_MM),
        hd_mm=distances.hd_mm,
        hd95_mm=distances.hd95_mm,
        assd_mm=distances.assd_mm,
        cldice=cldice(predicted, reference),
    )


def summarise(reports: Iterable[CaseReport]) -> Summary:
    """Average over cases; figures that are missing are left out of the mean and counted."""
    cases = tuple(reports)
    mean: dict[str, dict[str, float | None] | float | None] = {}
    counts: dict[LabelName, dict[str, int]] = {}
    for label in LABEL_NAMES:
        rows = [case.labels[label] for case in cases]
        mean[label] = {figure: _mean([getattr(row, figure) for row in rows]) for figure in _FIGURES}
        counts[label] = {o: sum(r.outcome == o for r in rows) for o in ("both_empty", "one_empty", "compared")}
    mean["length_error_mm"] = _mean([case.length_error_mm for case in cases])
    return Summary(cases=cases, mean=mean, counts=counts["pcs"], counts_by_label=counts)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def table(reports: Iterable[CaseReport]) -> str:
    """Return the reports as a TSV with one row per case and label; missing figures are `n/a`."""
    header = ("case", "label", "outcome", *_FIGURES, "length_mm", "reference_length_mm", "class", "reference_class")
    rows: list[tuple[str, ...]] = [header]
    for report in reports:
        for label, metrics in report.labels.items():
            figures = [_cell(getattr(metrics, figure)) for figure in _FIGURES]
            lengths = [_cell(v) if label == "pcs" else "n/a" for v in (report.length_mm, report.reference_length_mm)]
            classes = [v if v and label == "pcs" else "n/a" for v in (report.pcs_class, report.reference_class)]
            rows.append((report.case, label, metrics.outcome, *figures, *lengths, *classes))
    return "".join("\t".join(row) + "\n" for row in rows)


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
