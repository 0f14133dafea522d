"""Predict the cases that come next while nothing else is asked of the worker, and show what is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from qtpy.QtCore import QObject, Qt, QTimer, Signal

from napari_pcs.bids import parse_key
from napari_pcs.case import LabelRole
from napari_pcs.errors import PcsError
from napari_pcs.gui.jobs import Job
from napari_pcs.gui.layers import LayerSync
from napari_pcs.gui.predicting import fetching, is_stored, predicting, show_prediction
from napari_pcs.gui.working import leave_worker, models_of, worker_of
from napari_pcs.worker.events import Prefetched
from napari_pcs.worker.messages import Prefetch, Warm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.viewer import Viewer

    from napari_pcs.bids import CaseKey
    from napari_pcs.case import Case
    from napari_pcs.gui.jobs import Work
    from napari_pcs.gui.state import State
    from napari_pcs.prediction import Prediction
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken

__all__ = ["Ahead"]

_SETTLE_MS = 100
"""Several things change at once, as when a session opens: they make one request."""
_CASES = 3


class Ahead(QObject):
    """Keeps the worker warm, tells it what comes next, and shows a case's prediction when it is there.

    A prediction is shown unasked only for a case that nobody has corrected and whose labels nobody is editing.
    """

    _instances: ClassVar[WeakKeyDictionary[Viewer, Ahead]] = WeakKeyDictionary()
    told = Signal(object)

    @classmethod
    def attach(cls, viewer: Viewer, state: State) -> Ahead:
        """Make the one of a viewer; it lives as long as the viewer, whose labels are synchronised already."""
        cls._instances[viewer] = cls(viewer, state)
        return cls._instances[viewer]

    @classmethod
    def of(cls, viewer: Viewer) -> Ahead:
        """Return the one of a viewer that has a state."""
        return cls._instances[getattr(viewer, "__wrapped__", viewer)]

    def __init__(self, viewer: Viewer, state: State) -> None:
        super().__init__()
        self._state, self._sync = state, LayerSync.of(viewer)
        self._warm: object = None
        self._asked: object = None
        self._stale, self._left = True, False
        self._pid: int | None = None
        self._showing: Job | None = None
        self._waiting: tuple[Case, Work] | None = None
        self._reading: Job | None = None
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self._ask)
        # Queued: the worker tells on a thread of its own.
        self.told.connect(self._heard, Qt.ConnectionType.QueuedConnection)
        for name in ("session", "listing", "case", "model", "device", "tuning", "predict_ahead", "corrections"):
            getattr(state.events, name).connect(self._changed)
        state.events.job.connect(self._soon)
        state.events.tuning_job.connect(self._soon)
        state.events.case.connect(self._opened)
        for name in ("session", "model"):
            getattr(state.events, name).connect(self._nothing_ready)

    @property
    def is_fetching(self) -> bool:
        """Whether a prediction is about to be shown, or a case being read, of which nobody has asked."""
        return self._showing is not None or self._reading is not None

    def stay(self) -> None:
        """Have the worker again, if it was left."""
        self._left = False
        self._soon()

    def leave(self) -> None:
        """Let the worker end, and start none for what is still going on: the viewer closes."""
        self._left = True
        self._timer.stop()
        leave_worker(self._state)

    def _changed(self, _value: Any = None) -> None:
        self._stale = True
        self._soon()

    def _soon(self, _value: Any = None) -> None:
        if self._state.session is not None and self._state.job is None and not self._left:
            self._timer.start()

    def _ask(self) -> None:
        """Tell the worker what to have ready, unless it knows."""
        state, session = self._state, self._state.session
        if session is None or state.job is not None:
            return
        worker, models = worker_of(state), models_of(state)
        try:
            warm = Warm(model=state.model, models=models, device=state.device)
            if warm != self._warm:
                worker.send(warm)
                self._warm = warm
            if not self._stale and worker.pid == self._pid:
                return
            request = Prefetch(
                session=str(session.root),
                cases=tuple(key.stem for key in self._next()) if state.predict_ahead else (),
                model=state.model,
                models=models,
                device=state.device,
                tune=state.tuning if state.predict_ahead else None,
            )
            worker.send(request, self.told.emit)
            self._stale, self._pid = False, worker.pid
        except PcsError as error:
            state.say(str(error), error=True)
            return
        self._read_ahead(session)

    def _nothing_ready(self, _value: Any) -> None:
        self._state.ready = frozenset()

    def _next(self) -> list[CaseKey]:
        """Return the open case and those that come next; a corrected one can wait."""
        state = self._state
        if state.case is None:
            return state.listing.after(None, _CASES)
        key = state.case.key
        coming = state.listing.after(key, _CASES)
        if key not in state.listing.keys:
            return coming
        return [*coming, key] if key in state.listing.corrected else [key, *coming]

    def _heard(self, event: Any) -> None:
        if not isinstance(event, Prefetched) or event.what != "prediction":
            return
        self._state.ready |= {parse_key(event.case)}
        case = self._state.case
        if case is None:
            return
        if event.case == case.key.stem and self._waits(case):
            self._show(case, predicting(self._state, case))

    def _opened(self, case: Case | None) -> None:
        """Show what is kept without asking the worker, which may be busy."""
        if case is not None and self._waits(case):
            self._show(case, fetching(self._state, case))

    def _waits(self, case: Case) -> bool:
        """Say whether a prediction of this case may be shown unasked."""
        state = self._state
        return (
            state.predict_ahead
            and not self._left
            and state.session is not None
            and state.case is case
            and state.prediction is None
            and is_stored(state.session, case)
            and LabelRole.CORRECTED not in case.labels
            and not self._sync.is_in_use
        )

    def _show(self, case: Case, work: Work) -> None:
        """Fetch the prediction that is there, beside any job, and show it."""
        if self._showing is not None:
            self._waiting = (case, work)
            return

        def show(prediction: Prediction | None) -> None:
            self._showing = None
            if prediction is not None and self._waits(case):
                show_prediction(self._state, prediction, unasked=True)
            self._show_next()

        def failed(sentence: str) -> None:
            self._showing = None
            self._state.say(sentence, error=True)
            self._show_next()

        job = Job(f"Fetching the prediction of {case.key.stem}", work)
        job.done.connect(show)
        job.failed.connect(failed)
        job.cancelled.connect(lambda: setattr(self, "_showing", None))
        self._showing = job
        job.start()

    def _show_next(self) -> None:
        """Show what has become known, or was opened, while something was being fetched."""
        if self._waiting is not None:
            (case, work), self._waiting = self._waiting, None
            if self._waits(case):
                self._show(case, work)

    def _read_ahead(self, session: Session) -> None:
        """Read the next case, so that it opens at once."""
        key = self._state.case.key if self._state.case is not None else None
        coming = self._state.listing.after(key, 1)
        if not coming or self._reading is not None or not self._state.predict_ahead:
            return
        reader = self._state.reader

        def work(_stop: StopToken) -> Iterator[Any]:
            yield reader.read(session, coming[0])

        def over(_result: Any = None) -> None:
            self._reading = None

        job = Job(f"Reading {coming[0].stem} ahead", work)
        job.done.connect(over)
        job.failed.connect(over)  # it is said when somebody opens it
        self._reading = job
        job.start()
