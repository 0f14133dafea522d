"""Tune the chosen model on the corrections of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_pcs.gui.running import start_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.gui.state import State
    from napari_pcs.stop import StopToken
    from napari_pcs.training.config import TuneConfig

__all__ = ["tune_model"]


def tune_model(state: State, config: TuneConfig) -> None:
    """Start tuning; the new model is chosen at the end."""
    session, name, device = state.session, state.model, state.device
    if session is None or not session.corrected_keys():
        state.say("Found no corrected case to learn from. Correct a prediction and save it first.", error=True)
        return

    def work(stop: StopToken) -> Iterator[Any]:
        from napari_pcs.models.device import choose_device
        from napari_pcs.models.folders import find_model
        from napari_pcs.pipeline import new_model_folder, tune_session

        base = find_model(name, session.models)
        target = new_model_folder(session, base, config)
        yield from tune_session(session, base, target, config, choose_device(device), stop)

    def show(result: Any) -> None:
        state.model = result.model.name
        ended = "cancelled, best weights kept" if result.cancelled else "done"
        state.say(f"{result.model.name}: {ended} in {result.seconds_total:.0f} s. It is chosen now; predict with it.")

    # Not to be abandoned: a cancelled tuning still has its best weights to save.
    start_job(state, f"Tuning {name}", work, show, may_be_abandoned=False)
