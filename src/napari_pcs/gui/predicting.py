"""Predict a case in the worker, and keep the prediction in the session."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from napari_pcs.bids import case_file
from napari_pcs.case import LabelRole
from napari_pcs.gui.running import start_job
from napari_pcs.gui.working import models_of, worker_of
from napari_pcs.models.folders import find_model
from napari_pcs.pipeline import store_prediction
from napari_pcs.prediction import Prediction
from napari_pcs.worker.handover import write_case
from napari_pcs.worker.messages import HandedCase, Predict, StoredCase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.case import Case
    from napari_pcs.gui.jobs import Work
    from napari_pcs.gui.state import State
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken
    from napari_pcs.worker.messages import CaseSource

__all__ = ["fetching", "is_stored", "predict_case", "predicting", "show_prediction"]

_PATIENCE_S = 1.5
"""A prediction has nothing to save: a worker that does not stop is ended."""


def predict_case(state: State) -> None:
    """Run the chosen model on the open case, and show what it finds."""
    case = state.case
    if case is None:
        state.say("There is no hemisphere to predict. Open one first.", error=True)
        return
    if state.learns_from(case):
        state.say(
            f"Found {case.key.stem} among the corrections that are being learnt from. Predict it when the tuning is"
            " over, or cancel that.",
            error=True,
        )
        return

    def show(prediction: Prediction) -> None:
        if state.case is case:
            show_prediction(state, prediction)

    start_job(state, f"Predicting {case.key.stem}", predicting(state, case), show)


def predicting(state: State, case: Case) -> Work:
    """Return the work of a job that predicts a case and puts the prediction into the session."""
    worker, session, model, models, device = (
        worker_of(state),
        state.session,
        state.model,
        models_of(state),
        state.device,
    )

    def work(stop: StopToken) -> Iterator[Any]:
        # What is kept needs no worker, which may be busy tuning.
        if (kept := _kept(case, model, models)) is not None:
            if session is not None:
                _store(session, case, kept)
            yield kept
            return
        with TemporaryDirectory(prefix="napari-pcs-", ignore_cleanup_errors=True) as folder:
            source = _source(case, session, Path(folder))
            request = Predict(case=source, model=model, models=models, device=device)
            for event in worker.run(request, stop, patience_s=_PATIENCE_S, case=case):
                if isinstance(event, Prediction) and session is not None:
                    stop.check()
                    _store(session, case, event)
                yield event

    return work


def fetching(state: State, case: Case) -> Work:
    """Return the work of a job that looks whether the prediction of a case is kept; its result is None if not."""
    session, model, models = state.session, state.model, models_of(state)

    def work(stop: StopToken) -> Iterator[Any]:
        found = _kept(case, model, models)
        stop.check()
        if found is not None and session is not None:
            _store(session, case, found)
        yield found

    return work


def _kept(case: Case, model: str, models: tuple[str, ...]) -> Prediction | None:
    from napari_pcs.caches import prediction_cache
    from napari_pcs.kept import KeptPredictions

    return KeptPredictions(prediction_cache()).get(case, find_model(model, *map(Path, models)).reference)


def is_stored(session: Session, case: Case) -> bool:
    """Say whether a case was read from this session, where the worker can read it too."""
    return case.tissue.path == session.root / case_file(case.key, "gw", "dseg")


def show_prediction(state: State, prediction: Prediction, *, unasked: bool = False) -> None:
    """Show a prediction of the open case, and say what to do next."""
    state.timings_s = {**state.timings_s, **prediction.timings_s}
    state.prediction = prediction
    found = prediction.measurement
    began = f"Predicted ahead by {prediction.model.name}: " if unasked else ""
    if found is None:
        state.say(f"{began}the PCS is labelled, but not measured: nobody knows AC and PC. Set them in Load.")
    else:
        state.say(f"{began}PCS {found.pcs_class}, {found.length_mm:.1f} mm. Next: correct it, then save.")


def _source(case: Case, session: Session | None, folder: Path) -> CaseSource:
    if session is not None and is_stored(session, case):
        return StoredCase(session=str(session.root), case=case.key.stem)
    return HandedCase(path=str(write_case(case, folder)))


def _store(session: Session, case: Case, prediction: Prediction) -> None:
    known = case.labels.get(LabelRole.PREDICTED) if is_stored(session, case) else None
    if known is None or known.provenance.model != prediction.model:
        store_prediction(session, case, prediction)
