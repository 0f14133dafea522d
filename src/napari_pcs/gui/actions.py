"""What the buttons do: each starts a job or changes the state; none touches a widget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from napari_pcs.case import LabelRole
from napari_pcs.errors import PcsError
from napari_pcs.gui.ahead import Ahead
from napari_pcs.gui.commissures import ClickedCommissures
from napari_pcs.gui.layers import LayerSync
from napari_pcs.gui.listing import list_again
from napari_pcs.gui.looking import Looking
from napari_pcs.gui.opening import Opened, Wanted, open_wanted
from napari_pcs.gui.predicting import predict_case
from napari_pcs.gui.pretraining import Stage, leave, resume_run, start_stage
from napari_pcs.gui.proposing import propose_by_rule
from napari_pcs.gui.reconstruction import ReconstructionLayers
from napari_pcs.gui.running import start_job
from napari_pcs.gui.saving import save_correction, save_table
from napari_pcs.gui.showing import show_opened
from napari_pcs.gui.state import State, state_of
from napari_pcs.gui.tuning import tune_model
from napari_pcs.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari.viewer import Viewer

    from napari_pcs.bids import CaseKey
    from napari_pcs.gui.jobs import Work
    from napari_pcs.labels import Hemisphere, Label
    from napari_pcs.stop import StopToken
    from napari_pcs.training.config import TuneConfig

__all__ = ["Actions"]


class Actions:
    """Everything a user can do with a viewer's workspace.

    Parameters
    ----------
    viewer
        The viewer; its state is shared by all widgets.
    """

    def __init__(self, viewer: Viewer) -> None:
        self.state: State = state_of(viewer)
        self._sync = LayerSync.of(viewer)
        self._looking = Looking.of(viewer)
        self._ahead = Ahead.of(viewer)
        self._commissures = ClickedCommissures.of(viewer)
        self._reconstruction = ReconstructionLayers.of(viewer)
        self._warned = ""

    @property
    def has_labels(self) -> bool:
        """Whether there is a label map to edit."""
        return self._sync.has_labels

    def have_worker(self) -> None:
        """Let there be a worker: the window is open."""
        self._ahead.stay()

    def leave_worker(self) -> None:
        """Let the worker end: the window closes, and nothing goes on unseen behind it."""
        self._ahead.leave()

    def list_again(self) -> None:
        """Look through the session: other programs may have changed it."""
        list_again(self.state)

    def looked_words(self) -> str:
        """Say how much of the open case was looked at."""
        return self._looking.words()

    def cancel(self) -> None:
        """Stop the running job."""
        if self.state.job is not None:
            self.state.say(f"{self.state.job.title}: stopping...")
            self.state.job.cancel()

    def cancel_tuning(self) -> None:
        """Let the tuning end, with the best weights so far."""
        if self.state.tuning_job is not None:
            self.state.say(f"{self.state.tuning_job.title}: ending with the best weights so far...")
            self.state.tuning_job.cancel()

    @property
    def next_case(self) -> CaseKey | None:
        """The case that comes after the open one, of those without a correction if there are any."""
        case = self.state.case
        coming = self.state.listing.after(case.key if case is not None else None, 1)
        return coming[0] if coming and self.state.session is not None else None

    def open_next(self) -> None:
        """Open the case that comes next."""
        key = self.next_case
        if key is None:
            self.state.say("Found no other case in the session. Prepare or open another scan.", error=True)
        else:
            self.open_case(key)

    def open_session(self, folder: Path) -> None:
        """Open a session folder, or make one."""
        try:
            self.state.session = Session.create(folder)
        except PcsError as error:
            self.state.say(str(error), error=True)
        else:
            self.state.say(f"Session {folder.name} is open.")

    def open_sample(self, name: str) -> None:
        """Build and show a sample hemisphere."""

        def work(_stop: StopToken) -> Iterator[Any]:
            from napari_pcs.data.samples import sample

            yield Opened(sample(name), "sample")

        self._read(f"Opening {name}", work)

    def open_files(
        self,
        path: Path,
        hemisphere: Hemisphere | None = None,
        image: Path | None = None,
        reference: Path | None = None,
    ) -> None:
        """Open whatever is at a path; see `napari_pcs.gui.opening.open_wanted`."""
        wanted, session = Wanted(path, hemisphere, image, reference), self.state.session
        before: set[CaseKey] = set()

        def work(stop: StopToken) -> Iterator[Any]:
            before.update(session.keys() if session else ())
            yield from open_wanted(wanted, session, stop)

        def what_stays() -> str:
            new = len(set(session.keys()) - before) if session else 0
            complete = "1 hemisphere that was complete is" if new == 1 else f"{new} hemispheres that were complete are"
            return f"{complete} in the session." if new else "Nothing was changed."

        self._read(f"Opening {path.name}", work, what_stays, then=lambda: list_again(self.state))

    def open_case(self, key: CaseKey) -> None:
        """Read and show a case of the session, with its correction if it has one."""
        session, reader = self.state.session, self.state.reader
        assert session is not None  # noqa: S101  the list of cases comes from a session

        def work(_stop: StopToken) -> Iterator[Any]:
            yield reader.read(session, key)

        self._read(f"Opening {key.stem}", work)

    def _may_discard(self, title: str) -> bool:
        """Say whether unsaved labels may go: only when the user has asked for it a second time."""
        if not self.state.dirty or self._warned == title:
            self._warned = ""
            return True
        self._warned = title
        self.state.say(
            "The labels have changes that are not saved. Save them, or repeat this to discard them.", error=True
        )
        return False

    def _read(
        self,
        title: str,
        work: Work,
        what_stays: Callable[[], str] | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Open something; `then` is done whatever comes of it."""
        if not self._may_discard(title):
            return
        start = time.perf_counter()

        def show(opened: Opened) -> None:
            show_opened(self.state, opened, time.perf_counter() - start)
            then()

        start_job(self.state, title, work, show, what_stays=what_stays, without_result=then)

    def predict(self) -> None:
        """Run the chosen model on the case."""
        predict_case(self.state)

    def choose_model(self, name: str) -> None:
        """Take a model to predict with and to tune from."""
        self.state.model = name

    def propose(self) -> None:
        """Propose a PCS by rule, without a model."""
        propose_by_rule(self.state, self._sync)

    def use_tool(self, mode: str, label: Label) -> None:
        """Take one of napari's label tools in hand."""
        self._sync.set_tool(mode, label)

    def restart_from_prediction(self) -> None:
        """Replace the editable labels by the prediction, as one step that can be undone."""
        if self.state.prediction is not None:
            self._sync.replace_labels(self.state.prediction.labels)
            self.state.started_from = LabelRole.PREDICTED

    def save_correction(self, editor: str) -> None:
        """Write the editable labels into the session as a correction, with provenance."""
        save_correction(self.state, self._sync, editor)

    def tune(self, config: TuneConfig) -> None:
        """Tune the chosen model on the session's corrections; the new model is chosen at the end."""
        tune_model(self.state, config)

    def pretrain(self, stage: Stage) -> None:
        """Pre-train on hemispheres without labels, beside whatever else is done; the model goes into the session."""
        start_stage(self.state, stage)

    def resume_pretraining(self, run: Path) -> None:
        """Go on with a pre-training run that was stopped."""
        resume_run(self.state, run)

    def stop_pretraining(self) -> None:
        """Let pre-training save what it has and end."""
        if self.state.pretraining is not None:
            self.state.say(f"{self.state.pretraining.title}: saving a checkpoint...")
            self.state.pretraining.cancel()

    def leave_pretraining(self) -> None:
        """Let pre-training save and end without a word: the window closes, and nothing goes on unseen behind it."""
        leave(self.state)

    def look_at_reconstruction(self) -> None:
        """Fill the canvas with the newest reconstruction."""
        self._reconstruction.look()

    def make_report(self) -> None:
        """Compare the prediction with the correction, the reference or the tissue's own skeleton."""
        state = self.state
        case, prediction = state.case, state.prediction
        if case is None or (prediction is None and LabelRole.PREDICTED not in case.labels):
            state.say("There is no prediction to report on. Predict first.", error=True)
            return
        predicted = prediction.labels if prediction else case.labels[LabelRole.PREDICTED].data

        def work(_stop: StopToken) -> Iterator[Any]:
            from napari_pcs.pipeline import report_on

            yield report_on(case, predicted)

        def show(result: Any) -> None:
            state.report_against, state.report = result
            state.say(f"Compared with the {state.report_against}.")

        start_job(self.state, f"Measuring {case.key.stem}", work, show)

    def save_table(self, path: Path) -> None:
        """Write the report as TSV."""
        save_table(self.state, path)

    def ask_for(self, landmark: str) -> None:
        """Take the next click in the image for a commissure, "AC" or "PC"; asked again, no longer."""
        self._commissures.ask_for(landmark)

    def stop_asking(self) -> None:
        """Take no click for a commissure any more."""
        self._commissures.stop_asking()
