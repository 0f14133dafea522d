"""Predicting many inputs: what is said meanwhile, and what is said of it in the end."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from napari_pcs.cli.options import say, show
from napari_pcs.cli.stopping import stopped_by_signals
from napari_pcs.errors import CancelledError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_pcs.cohort_prediction import CaseOutcome, CohortPrediction
    from napari_pcs.inputs import Refused, Scan, Stored
    from napari_pcs.labels import Hemisphere
    from napari_pcs.stop import StopToken
    from napari_pcs.training.processes import Processes

__all__ = ["CohortResult", "line", "predict_inputs"]

_FEW = 10
"""Inputs of which each step of reading is told."""


@dataclass
class CohortResult:
    """What became of all cases, as far as this process knows.

    Attributes
    ----------
    out
        The session's folder.
    outcomes
        Of each case.
    of
        How many inputs there were.
    cancelled
        Whether it was stopped.
    signalled
        Whether a signal asked for it.
    is_main
        Whether this process tells the result.
    """

    out: Path
    outcomes: list[CaseOutcome] = field(default_factory=list)
    of: int = 0
    cancelled: bool = False
    signalled: bool = False
    is_main: bool = True

    def show(self, *, as_json: bool) -> None:
        """Tell the result.

        Raises
        ------
        Exit
            With code 1 if anything failed or was left undone.
        Exception
            Why the only case failed, if there was only one.
        """
        outcomes = sorted(self.outcomes, key=lambda outcome: outcome.number)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        if self.is_main:
            if self.of == len(failed) == len(outcomes) == 1 and failed[0].error is not None:
                raise failed[0].error
            for outcome in failed if self.of == 1 else ():
                say(_told(outcome))
            if as_json:
                show(self._record(outcomes, failed), as_json=True, text="")
            elif self.cancelled:
                say(f"Cancelled: {self.summary}. Run the same again to do the rest.")
            else:
                show(None, as_json=False, text=self.summary)
        if self.signalled and self.cancelled:
            sys.stdout.flush()
            sys.stderr.flush()
            # All is written. To let go of PyTorch in order takes seconds, and longer while a thread is inside it.
            os._exit(1)
        if failed or self.cancelled:
            raise typer.Exit(1)

    @property
    def summary(self) -> str:
        """How many cases were predicted, skipped and failed."""
        counts = {state: sum(o.state == state for o in self.outcomes) for state in ("predicted", "skipped", "failed")}
        told = [_count(counts["predicted"], "prediction")]
        if counts["skipped"]:
            told.append(f"{counts['skipped']} there already")
        if counts["failed"]:
            told.append(f"{counts['failed']} failed")
        return f"{', '.join(told)} in {self.out}"

    def _record(self, outcomes: list[CaseOutcome], failed: list[CaseOutcome]) -> dict[str, Any]:
        record: dict[str, Any] = {
            "cases": [outcome.record for outcome in outcomes if outcome.record is not None],
            "failed": [{"input": str(o.path), "case": o.name, "reason": o.reason} for o in failed],
        }
        return {**record, "cancelled": True} if self.cancelled else record


def predict_inputs(
    paths: Sequence[Path],
    out: Path,
    model: str,
    hemisphere: Hemisphere | None,
    device: str,
    *,
    again: bool,
    engine: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> CohortResult:
    """Predict inputs into a session, with the other processes if there are any.

    Parameters
    ----------
    paths
        Files and folders.
    out
        The session's folder, made if need be.
    model
        Name of a model, or the path of its folder.
    hemisphere
        Side to take; all if None.
    device
        Name of a device.
    again
        Also what is there already.
    engine
        What runs the network; see `napari_pcs.inference.choose.Engines`.
    options
        For `napari_pcs.predict.predict_steps`.

    Raises
    ------
    PcsError
        If the session, the model or the device cannot be had.
    """
    from napari_pcs.inference.choose import engine_name
    from napari_pcs.inputs import find_inputs
    from napari_pcs.models.folders import find_model
    from napari_pcs.session import Session
    from napari_pcs.training.processes import Processes

    engine = engine_name(engine)
    with Processes(device) as processes:
        # The first process makes the session; the others then find it.
        session = Session.create(out) if processes.is_main else None
        inputs = processes.share(find_inputs(paths, hemisphere) if processes.is_main else None)
        session = session or Session.open(out)
        folder = find_model(model, session.models)
        folder.require_trained_heads()  # what is missing is said before anything is read
        result = CohortResult(out, of=len(inputs), is_main=processes.is_main)
        with stopped_by_signals(lambda name: say(f"{name}: stopping; what is finished is written.")) as stop:
            work = _work(
                session, folder, processes, engine, again=again, tell=len(inputs) < _FEW, options=options or {}
            )
            _follow(work, inputs, processes, result, stop)
            result.signalled = stop.is_set()
    return result


def _work(
    session: Any,
    folder: Any,
    processes: Processes,
    engine: str,
    *,
    again: bool,
    tell: bool,
    options: Mapping[str, Any],
) -> CohortPrediction:
    from napari_pcs.caches import prediction_cache
    from napari_pcs.cohort_prediction import CohortPrediction, Hands
    from napari_pcs.inference.choose import Engines
    from napari_pcs.kept import KeptPredictions
    from napari_pcs.models.store import load_segmenter

    network = load_segmenter(folder)
    return CohortPrediction(
        session,
        network,
        folder.reference,
        processes.device,
        again=again,
        kept=KeptPredictions(prediction_cache()),
        hands=Hands.for_device(processes.device, processes.count),
        tell=(lambda name, sentence: say(f"{name}: {sentence}")) if tell else lambda _name, _sentence: None,
        options={"engines": Engines(network, folder.digest, processes.device, engine), **options},
    )


def _follow(
    work: CohortPrediction,
    inputs: Sequence[Scan | Stored | Refused],
    processes: Processes,
    result: CohortResult,
    stop: StopToken,
) -> None:
    from napari_pcs.turns import Turns

    start, begun = time.perf_counter(), set()
    try:
        with Turns(processes) as turns:
            for outcome in work.run(turns.take(inputs), stop):
                result.outcomes.append(outcome)
                begun.add(outcome.number[0])
                if len(inputs) > 1 or outcome.error is None:
                    say(f"{_told(outcome)}{_place(len(begun) * processes.count, len(inputs), start)}")
    except CancelledError:
        result.cancelled = True
        return
    if processes.count > 1:
        result.outcomes = list(processes.collect(tuple(outcome.to_send() for outcome in result.outcomes)))


def line(record: dict[str, Any]) -> str:
    """Say what was found in a case."""
    timing = record["timings_s"]
    measured = record["length_mm"] is not None
    found = f"PCS {record['class']}, {record['length_mm']:.1f} mm" if measured else "PCS not measured: no AC and PC"
    if record.get("skipped"):
        return f"{record['case']}: {found}; predicted before"
    return (
        f"{record['case']}: {found}; "
        f"{timing['total']:.1f} s on {record['device']} ({record['route']}; network {timing['network']:.1f} s)"
    )


def _told(outcome: CaseOutcome) -> str:
    return f"Error: {outcome.reason}" if outcome.record is None else line(outcome.record)


def _place(begun: int, of: int, start: float) -> str:
    """Say how far all processes are, if they are as fast as this one, and how long it takes to the end."""
    from napari_pcs.training.pace import clock

    if of <= 1 or begun >= of:
        return ""
    left = (time.perf_counter() - start) * (of - begun) / begun
    return f" ({begun} of {of}, {clock(left)} h left)"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
