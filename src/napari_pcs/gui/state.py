"""What one viewer's workspace is about: an evented object that widgets listen to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from psygnal import SignalGroupDescriptor

from napari_pcs.gui.listing import Listing, keep_listed
from napari_pcs.gui.reading import CaseReader
from napari_pcs.looked import Looked
from napari_pcs.training.config import TuneConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from napari.viewer import Viewer
    from numpy.typing import NDArray

    from napari_pcs.bids import CaseKey
    from napari_pcs.case import Case, LabelRole
    from napari_pcs.commissures import Point
    from napari_pcs.gui.jobs import Job
    from napari_pcs.gui.tuning import TuneRun
    from napari_pcs.gui.watched import Watched
    from napari_pcs.metrics.report import CaseReport
    from napari_pcs.prediction import Prediction
    from napari_pcs.session import Session
    from napari_pcs.training.events import Event
    from napari_pcs.worker.client import Worker

__all__ = ["Message", "State", "state_of"]


@dataclass(frozen=True)
class Message:
    """A sentence for the status strip."""

    text: str
    is_error: bool = False


@dataclass(eq=False)
class State:
    """Session, case, prediction and report of one viewer.

    Every field emits `events.<name>` when it is replaced. Fields are replaced, never changed in
    place. `listing` is what the session holds, as far as it was looked through; `reader` reads its
    cases. `clicked` has world mm by landmark, "AC" or "PC"; `asked_for` is the one that the next click
    in the image sets. `started_from` says what the editable labels began as, if there are any; `pieces`
    are the ids of the case's fold pieces on its grid, where somebody has cut them. `looked` is what was
    looked at of the editable labels, over all sittings; `partly_done` says that the rest is not to be
    learnt from. `corrections` counts those that were saved in this window. `worker` is the process that
    predicts and tunes, once one was needed; `ready` are cases whose prediction by the chosen model is known
    to be there. `tuning` is how the next tuning will be done, `tune_run` the last one; its `tuning_job` runs
    beside any `job`, so that the next case can be corrected meanwhile, and so does `pretraining`, since it
    takes hours; `watched` is how that stands, or stood when it ended.
    """

    events: ClassVar[SignalGroupDescriptor] = SignalGroupDescriptor()

    session: Session | None = None
    listing: Listing = field(default_factory=Listing)
    reader: CaseReader = field(default_factory=CaseReader)
    case: Case | None = None
    pieces: NDArray[np.int32] | None = None
    started_from: LabelRole | None = None
    prediction: Prediction | None = None
    report: CaseReport | None = None
    report_against: str = ""
    model: str = "starter"
    device: str = "auto"
    tuning: TuneConfig = field(default_factory=TuneConfig)
    tune_run: TuneRun | None = None
    predict_ahead: bool = True
    worker: Worker | None = None
    job: Job | None = None
    event: Event | None = None
    tuning_job: Job | None = None
    tuning_event: Event | None = None
    ready: frozenset[CaseKey] = frozenset()
    pretraining: Job | None = None
    watched: Watched | None = None
    show_reconstructions: bool = True
    message: Message = field(default_factory=lambda: Message("Open a hemisphere, or a sample, to begin."))
    dirty: bool = False
    partly_done: bool = False
    corrections: int = 0
    looked: Looked = field(default_factory=Looked)
    length_mm: float | None = None
    pcs_class: str | None = None
    clicked: Mapping[str, Point] = field(default_factory=dict)
    asked_for: str | None = None
    timings_s: dict[str, float] = field(default_factory=dict)
    edit_seconds_before: float = 0.0
    opened_at: float = field(default_factory=time.monotonic)

    @property
    def edit_seconds(self) -> float:
        """Time this case has been open for editing, over all sittings."""
        return self.edit_seconds_before + self.sitting_seconds

    @property
    def sitting_seconds(self) -> float:
        """Time since the labels were opened or last saved."""
        return time.monotonic() - self.opened_at

    def begin_sitting(self, seconds_before: float, *, since: float | None = None) -> None:
        """Start the clock of a sitting, now or at a moment (`time.monotonic`), after earlier ones of this length."""
        self.edit_seconds_before = seconds_before
        self.opened_at = time.monotonic() if since is None else since

    def learns_from(self, case: Case) -> bool:
        """Say whether a tuning that goes on reads this case: what it reads must stay as it is."""
        return self.tuning_job is not None and self.tune_run is not None and case.key in self.tune_run.cases

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a sentence."""
        self.message = Message(text, error)


_states: WeakKeyDictionary[Viewer, State] = WeakKeyDictionary()


def state_of(viewer: Viewer) -> State:
    """Return the viewer's state, made when it is first asked for."""
    from napari_pcs.gui.ahead import Ahead
    from napari_pcs.gui.canvas import warm_colors
    from napari_pcs.gui.commissures import ClickedCommissures
    from napari_pcs.gui.layers import EDITABLE, LayerSync
    from napari_pcs.gui.looking import Looking
    from napari_pcs.gui.pieces import show_pieces_with
    from napari_pcs.gui.reconstruction import ReconstructionLayers

    # A proxy is handed to plugins' widgets; the viewer behind it is what all of them share.
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _states:
        state = State()
        _states[viewer] = state
        warm_colors()
        LayerSync.attach(viewer, state)
        Looking.attach(viewer, state)
        show_pieces_with(viewer, state, below=EDITABLE)
        ClickedCommissures.attach(viewer, state)
        ReconstructionLayers.attach(viewer, state)
        keep_listed(state)
        Ahead.attach(viewer, state)
    return _states[viewer]
