"""Tune the chosen model on the corrections of the session, in the worker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_pcs.errors import PcsError
from napari_pcs.gui.running import start_job
from napari_pcs.gui.verdict import Verdict, judge
from napari_pcs.gui.working import models_of, worker_of
from napari_pcs.models.folders import find_model
from napari_pcs.worker.messages import Tune

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.bids import CaseKey
    from napari_pcs.gui.state import State
    from napari_pcs.stop import StopToken
    from napari_pcs.training.config import TuneConfig
    from napari_pcs.training.events import Tuned

__all__ = ["TuneRun", "tune_model"]

_PATIENCE_S = 10.0
"""A cancelled tuning ends in two seconds, with its model written; a disk may be slow."""


@dataclass(frozen=True)
class TuneRun:
    """A tuning of this viewer.

    Attributes
    ----------
    base
        Name of the model that it began from.
    cases
        That were corrected when it began.
    result, verdict
        Once it has a model; the verdict only where there were held-out cases.
    is_over
        Whether it has ended, in whatever way.
    """

    base: str
    config: TuneConfig
    cases: frozenset[CaseKey] = frozenset()
    result: Tuned | None = None
    verdict: Verdict | None = None
    is_over: bool = False


def tune_model(state: State, config: TuneConfig) -> None:
    """Start tuning; at the end the new model is chosen unless it is worse than the old one."""
    session, name = state.session, state.model
    if session is None or not (state.listing.corrected or session.corrected_keys()):
        state.say("Found no corrected case to learn from. Correct a prediction and save it first.", error=True)
        return
    if state.tuning_job is not None:
        state.say(f"{state.tuning_job.title} is still running. Wait, or cancel it.", error=True)
        return
    try:
        could_label = find_model(name, session.models).has_trained_heads
    except PcsError as error:
        state.say(str(error), error=True)
        return
    worker, models, device, root = worker_of(state), models_of(state), state.device, str(session.root)
    begun = TuneRun(name, config, state.listing.corrected)
    state.tune_run = begun

    def work(stop: StopToken) -> Iterator[Any]:
        request = Tune(session=root, model=name, models=models, device=device, config=config)
        yield from worker.run(request, stop, patience_s=_PATIENCE_S)

    def show(result: Tuned) -> None:
        verdict = _verdict(name, result, could_label=could_label) if result.held_out_cases else None
        use_new = verdict.use_new if verdict is not None else not result.cancelled
        state.model = result.model.name if use_new else name
        state.tune_run = replace(begun, result=result, verdict=verdict, is_over=True)
        state.events.model.emit(state.model)  # there is a new one to list, chosen or not
        state.say(_summary(result, state.model))

    # Not to be abandoned: a cancelled tuning still has its best weights to save.
    start_job(
        state,
        f"Tuning {name}",
        work,
        show,
        may_be_abandoned=False,
        without_result=lambda: _over(state, begun),
        tuning=True,
    )


def _over(state: State, run: TuneRun) -> None:
    if state.tune_run is run:
        state.tune_run = replace(run, is_over=True)


def _verdict(base: str, result: Tuned, *, could_label: bool) -> Verdict:
    return judge(base, result.model.name, result.before, result.after, old_labels=could_label)


def _summary(result: Tuned, chosen: str) -> str:
    ended = "cancelled, best weights kept" if result.cancelled else "done"
    is_new = chosen == result.model.name
    then = "It is chosen now; predict with it." if is_new else f"{chosen} stays chosen; see why in Tune."
    return f"{result.model.name}: {ended} in {result.seconds_total:.0f} s. {then}"
