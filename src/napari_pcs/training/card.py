"""The card of a tuned model: where it comes from and what it is known to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_pcs.metrics.report import CaseReport, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_pcs.training.events import Pretrained, Tuned

__all__ = ["pretrained_card", "tuned_card"]


def tuned_card(base: str, base_digest: str, result: Tuned, training_cases: Sequence[str], config_json: str) -> str:
    """Return the Markdown card of a model tuned on corrections."""
    ended = _ENDED[result.stopped]
    return f"""# {result.model.name}

Tuned from **{base}** (weights {base_digest}) with the *{result.strategy}* strategy.

- Trained weights: {result.trainable_parameters:,} of {result.total_parameters:,}
- Corrected cases: {", ".join(training_cases)}
- Rounds: {result.rounds} ({ended}); weights of step {result.best_step}; {result.seconds_total:.0f} s in all
- Settings: `{config_json}`

## Held-out cases

{_held_out(result.held_out_cases, result.before, result.after)}

The labels are one team's corrections: the figures measure agreement with them. Patches of the held-out cases chose the
round whose weights were kept, so the figures flatter it a little.
"""


_ENDED = {
    "complete": "all that were asked for",
    "early": "stopped early, the held-out Dice rose no more",
    "budget": "the time was up",
    "cancelled": "cancelled by the user, best weights kept",
}


def pretrained_card(result: Pretrained, config_json: str) -> str:
    """Return the Markdown card of a pre-trained model; the store adds its lineage."""
    stage = result.lineage[-1]
    trained = ", ".join(stage.parts)
    ended = {"complete": "all of them", "early": "stopped early, the validation loss fell no more"}[result.stopped]
    return f"""# {result.model.name}

Pre-trained without labels by *{result.objective}*. Its {trained} have learnt; its heads have not, so it cannot
predict before it is tuned on labelled cases.

- Data: {stage.data}
- Epochs: {result.epochs} ({ended}), the weights are those of epoch {result.best_epoch}
- Mean loss: {result.first_loss:.4g} in the first epoch, {result.last_loss:.4g} in the last
- Files that could not be read: {len(result.skipped)}
- Time: {result.seconds_per_epoch:.3g} s an epoch, {result.seconds_total:.0f} s in the last sitting
- Settings: `{config_json}`
"""


def _held_out(held_out: Sequence[str], before: Sequence[CaseReport], after: Sequence[CaseReport]) -> str:
    if not held_out:
        return "There was none: all corrected cases are of one person, so nothing is known of unseen people."
    if not after:
        return "They were not predicted after tuning, because it was cancelled."
    rows = ["| label | figure | before | after |", "|---|---|---|---|"]
    # A model that was only pre-trained predicts nothing before.
    summaries = [summarise(reports) if reports else None for reports in (before, after)]
    for label in ("skeleton", "pcs"):
        for figure in ("dice", "hd95_mm"):
            cells = [_figure(s.mean[label] if s else None, figure) for s in summaries]
            rows.append(f"| {label} | {figure} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def _figure(row: object, figure: str) -> str:
    value = row.get(figure) if isinstance(row, dict) else None
    return "n/a" if value is None else f"{value:.3f}"
