"""Whether a tuned model is better than the one it came from, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_pcs.metrics.report import CaseReport, LabelName

__all__ = ["Figure", "Verdict", "judge"]

_DICE_MATTERS, _LENGTH_MATTERS_MM = 0.005, 1.0
"""A difference below these is none: a few voxels of a sheet one voxel thick."""
_FEW = 3
_BOTH_EMPTY = 1.0


@dataclass(frozen=True)
class Figure:
    """One figure on the held-out cases, as the old and as the new model has it; None where nobody knows.

    Attributes
    ----------
    gain
        How much better the new one is, in the figure's own unit; negative if it is worse.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    matters: float
    high_is_good: bool

    @property
    def gain(self) -> float | None:
        """The difference, positive if the new model is better."""
        if self.before is None or self.after is None:
            return None
        return (self.after - self.before) * (1 if self.high_is_good else -1)

    @property
    def change(self) -> Literal["better", "worse", "same", "unknown"]:
        """The difference in one word."""
        gain = self.gain
        if gain is None:
            return "unknown"
        return "same" if abs(gain) < self.matters else "better" if gain > 0 else "worse"


@dataclass(frozen=True)
class Verdict:
    """What to do with a tuned model.

    Attributes
    ----------
    sentence
        For the user, who sees the figures beside it.
    use_new
        Whether the new model is the one to go on with.
    figures
        The most telling one first.
    """

    sentence: str
    use_new: bool
    figures: tuple[Figure, ...]


def judge(
    old: str, new: str, before: Sequence[CaseReport], after: Sequence[CaseReport], *, old_labels: bool = True
) -> Verdict:
    """Compare two models by what they do on cases that neither was trained on.

    Where some figures are better and others worse, the first of PCS Dice, length and skeleton Dice
    that differs decides, and the Hausdorff distance where all these are alike.

    Parameters
    ----------
    old, new
        Names of the models.
    before, after
        Their reports on the same cases; no reports if a model has not been judged.
    old_labels
        Whether the old model can label at all; one that was only pre-trained cannot.
    """
    figures = _figures(before, after) if after else ()
    if not old_labels:
        return Verdict(f"{old} cannot label yet; {new} can. Use {new}.", use_new=True, figures=figures)
    if not before or not after:
        return Verdict(f"{new} has not been compared with {old}, which stays chosen.", use_new=False, figures=figures)
    changes = [figure.change for figure in figures]
    decisive = next((change for change in changes if change in ("better", "worse")), "same")
    if all(change == "unknown" for change in changes):
        return Verdict(
            f"The held-out cases have nothing to compare by, so {old} stays chosen.", use_new=False, figures=figures
        )
    mixed = "better" in changes and "worse" in changes
    cases = f"{len(after)} held-out case{'s' if len(after) > 1 else ''}"
    if decisive == "same":
        opinion = f"{new} is as good as {old} on {cases}."
    else:
        opinion = f"<b>{new} is {'better' if decisive == 'better' else 'not better'}</b> than {old} on {cases}."
    details = f" {_list(figures, 'better')}, but {_list(figures, 'worse')}." if mixed else ""
    use_new = decisive != "worse"
    caution = " So few cases can mislead: look at its predictions." if len(after) < _FEW else ""
    return Verdict(f"{opinion}{details} {_advice(old, new, use_new)}{caution}", use_new, figures)


def _advice(old: str, new: str, use_new: bool) -> str:
    return f"Use {new}." if use_new else f"Keep {old}."


def _list(figures: Sequence[Figure], change: str) -> str:
    names = " and ".join(figure.name for figure in figures if figure.change == change)
    return f"{names} {change}"


def _figures(before: Sequence[CaseReport], after: Sequence[CaseReport]) -> tuple[Figure, ...]:
    old = {report.case: report for report in before}
    new = {report.case: report for report in after}
    return (
        _dice("PCS Dice", "pcs", old, new),
        Figure(
            "length error", "mm", _length_error(before), _length_error(after), _LENGTH_MATTERS_MM, high_is_good=False
        ),
        _dice("skeleton Dice", "skeleton", old, new),
        Figure("PCS Hausdorff", "mm", *_hausdorff(old, new), _LENGTH_MATTERS_MM, high_is_good=False),
    )


def _dice(name: str, label: LabelName, old: dict[str, CaseReport], new: dict[str, CaseReport]) -> Figure:
    """Average the Dice over the cases where a model has one.

    To see rightly that there is no PCS counts as 1 where the other model saw one: left out, as in a
    mean over one model's cases, it would be no improvement.
    """
    means = []
    for mine, theirs in ((old, new), (new, old)):
        own = {case: report.labels[label].dice for case, report in mine.items()}
        others = {case: report.labels[label].dice for case, report in theirs.items()}
        values = [
            _BOTH_EMPTY if value is None else value
            for case, value in own.items()
            if value is not None or others.get(case) is not None
        ]
        means.append(_mean(values))
    return Figure(name, "", means[0], means[1], _DICE_MATTERS, high_is_good=True)


def _length_error(reports: Sequence[CaseReport]) -> float | None:
    return _mean([abs(report.length_error_mm) for report in reports if report.length_error_mm is not None])


def _hausdorff(old: dict[str, CaseReport], new: dict[str, CaseReport]) -> tuple[float | None, float | None]:
    """Average the 95th percentile of the distances between surfaces over the cases where both models have one."""
    distances = [{case: report.labels["pcs"].hd95_mm for case, report in reports.items()} for reports in (old, new)]
    both = [case for case in new if all(of.get(case) is not None or not of for of in distances)]
    before, after = ([value for case in both if (value := of.get(case)) is not None] for of in distances)
    return _mean(before), _mean(after)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
