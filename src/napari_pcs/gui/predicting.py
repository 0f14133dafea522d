"""Predict the open case in the worker, and keep the prediction in the session."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from napari_pcs.bids import case_file
from napari_pcs.gui.running import start_job
from napari_pcs.gui.working import models_of, worker_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.case import Case
    from napari_pcs.gui.state import State
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken

__all__ = ["is_stored", "predict_case", "predicted"]

_PATIENCE_S = 1.5
"""A prediction has nothing to save: one that does not stop is ended."""


def predict_case(state: State) -> None:
    """Run the chosen model on the open case and show what it finds."""
    case = state.case
    if case is None:
        state.say("There is no hemisphere to predict. Open one first.", error=True)
        return

    def show(prediction: Any) -> None:
        if state.case is case:
            show_prediction(state, prediction)

    start_job(state, f"Predicting {case.key.stem}", predicted(state, case), show)


def predicted(state: State, case: Case) -> Any:
    """Return the work of a job that predicts a case and stores the prediction."""
    worker, session, model, models, device = worker_of(state), state.session, state.model, models_of(state), state.device

    def work(stop: StopToken) -> Iterator[Any]:
        from napari_pcs.prediction import Prediction
        from napari_pcs.worker.messages import HandedCase, Predict, StoredCase

        with TemporaryDirectory(prefix="napari-pcs-", ignore_cleanup_errors=True) as folder:
            if session is not None and is_stored(session, case):
                source: StoredCase | HandedCase = StoredCase(session=str(session.root), case=case.key.stem)
            else:
                from napari_pcs.worker.handover import write_case

                source = HandedCase(path=str(write_case(case, Path(folder))))
            request = Predict(case=source, model=model, models=models, device=device)
            for event in worker.run(request, stop, patience_s=_PATIENCE_S):
                if isinstance(event, Prediction) and session is not None:
                    stop.check()
                    _store(session, case, event)
                yield event

    return work


def is_stored(session: Session, case: Case) -> bool:
    """Say whether a case was read from this session, where the worker can read it too."""
    return case.tissue.path == session.root / case_file(case.key, "gw", "dseg")


def show_prediction(state: State, prediction: Any) -> None:
    """Show a prediction of the open case, and what to do next."""
    state.timings_s = {**state.timings_s, **prediction.timings_s}
    state.prediction = prediction
    found = prediction.measurement
    if found is None:
        state.say("The PCS is labelled, but not measured: nobody knows AC and PC. Set them in Load.")
    else:
        state.say(f"PCS {found.pcs_class}, {found.length_mm:.1f} mm. Next: correct it, then save.")


def _store(session: Session, case: Case, prediction: Any) -> None:
    from napari_pcs.pipeline import store_prediction

    store_prediction(session, case, prediction)
