"""Predict many cases: one is read while another is in the network and a third one is written.

What a session has from the same model and image is not predicted again, so a run can be stopped at
any time and started again.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import psutil

from napari_pcs.anatomy.progress import Step
from napari_pcs.errors import InputError, PcsError
from napari_pcs.inputs import Refused, Scan, Stored
from napari_pcs.pipeline import prediction_record, store_prediction, stored_record
from napari_pcs.predict import predict_steps
from napari_pcs.prediction import Prediction
from napari_pcs.session import Session
from napari_pcs.streams import Stage, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import torch

    from napari_pcs.anatomy.sources import Source
    from napari_pcs.case import Case
    from napari_pcs.kept import KeptPredictions
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.provenance import ModelReference
    from napari_pcs.stop import StopToken
    from napari_pcs.streams import Ended

__all__ = ["CaseOutcome", "CohortPrediction", "Hands"]

_WAITING = 3
"""Cases that wait between two stages, beyond those that are being worked on."""
_CASE_BYTES = 500_000_000
"""Most that a case of 0.7 mm takes on its way; one of 1 mm takes a third of it."""
_PATIENCE_S = 0.5
"""How long a stop waits for a stage that writes nothing."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hands:
    """Threads for each stage. The network has one: it has all of its device.

    Attributes
    ----------
    read
        Cases that are read, and aligned where nobody knows AC and PC, at the same time.
    measure
        Cases whose labels are brought onto their own grid and measured.
    write
        Cases that are compressed and written.
    """

    read: int = 1
    measure: int = 1
    write: int = 1

    @classmethod
    def for_device(cls, device: torch.device, processes: int = 1) -> Hands:
        """Return what suits a device, and the processors and memory that one of so many processes has here.

        A network on the CPU uses the processors by itself. A GPU takes less time for a case than reading
        it does, so many are read at once.
        """
        if device.type == "cpu":
            return cls()
        cores = (os.cpu_count() or 1) // processes
        room = int(psutil.virtual_memory().available // (2 * processes * _CASE_BYTES))
        share = max(1, min(cores, room) // 4)
        return cls(read=2 * share, measure=share, write=share)

    @property
    def in_flight(self) -> int:
        """Cases between being read and being reported."""
        return self.read + self.measure + self.write + _WAITING


@dataclass(frozen=True, eq=False)
class CaseOutcome:
    """What became of one case, or of an input that gave none.

    Attributes
    ----------
    number
        Of the input, and of the case in it.
    name
        Of the case, or of the input if it failed before that was known.
    path
        Where it comes from.
    state
        "predicted", "skipped" if the session had it from the same model and image, or "failed".
    record
        JSON object of the case; None if it failed.
    error
        Why it failed.
    """

    number: tuple[int, int]
    name: str
    path: Path
    state: Literal["predicted", "skipped", "failed"]
    record: dict[str, Any] | None = None
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """Why it failed, in a sentence."""
        if self.error is None or isinstance(self.error, PcsError):
            return str(self.error or "")
        return f"{self.name}: {type(self.error).__name__}: {self.error}"

    def to_send(self) -> CaseOutcome:
        """Return the same for another process: not every error can be sent."""
        return self if self.error is None else replace(self, error=PcsError(self.reason))


@dataclass(eq=False)
class _Job:
    """One case on its way."""

    case: Case | None
    name: str
    source: Path | None = None
    read_s: float = 0.0
    record: dict[str, Any] | None = None
    steps: Iterator[Any] | None = None
    prediction: Prediction | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class CohortPrediction:
    """Predicts inputs with one model and writes them into a session.

    Parameters
    ----------
    session
        Where to.
    network, model, device
        Used for all cases.
    again
        Predict what the session has from this model and image all the same.
    kept
        Predictions that are taken where they are of this model and image; none are added.
    hands
        Threads for each stage.
    tell
        Called with an input's name and a sentence when its reading comes to a next step.
    options
        For `napari_pcs.predict.predict_steps`.
    """

    def __init__(
        self,
        session: Session,
        network: Segmenter,
        model: ModelReference,
        device: torch.device,
        *,
        again: bool = False,
        kept: KeptPredictions | None = None,
        hands: Hands | None = None,
        tell: Callable[[str, str], None] = lambda _name, _sentence: None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._session, self._network, self._model, self._device = session, network, model, device
        self._again, self._kept, self._tell, self._options = again, kept, tell, options
        self.hands = hands or Hands.for_device(device)
        self._peak_mb = 0.0

    def run(
        self, inputs: Iterable[tuple[int, Scan | Stored | Refused]], stop: StopToken | None = None
    ) -> Iterator[CaseOutcome]:
        """Predict inputs, each with its number; yield what became of each case, in the order of completion.

        One that fails stops no other.

        Raises
        ------
        CancelledError
            Soon after `stop` is set. What was written until then has been yielded.
        """
        flow = stream(inputs, self.stages(), stop=stop, in_flight=self.hands.in_flight, patience_s=_PATIENCE_S)
        for ended in flow:
            yield _outcome(ended)

    def stages(self) -> tuple[Stage, ...]:
        """Return what is done with each input, see `run`, one after the other."""
        return (
            Stage("read", self._read, self.hands.read, completes=False),
            Stage("prepare", self._prepare, completes=False),
            Stage("network", self._infer, completes=False),
            Stage("postprocess", self._measure, self.hands.measure, completes=False),
            Stage("write", self._write, self.hands.write),
        )

    def _read(self, numbered: tuple[int, Scan | Stored | Refused], stop: StopToken) -> Iterator[_Job]:
        start = time.perf_counter()
        for job in self._jobs(numbered[1], stop):
            job.read_s = time.perf_counter() - start
            yield job
            start = time.perf_counter()

    def _jobs(self, given: Scan | Stored | Refused, stop: StopToken) -> Iterator[_Job]:
        if isinstance(given, Refused):
            raise given.error
        if isinstance(given, Stored):
            yield self._stored(given)
            return
        for source in given.sources():
            new = []
            for side in source.choose(None):
                stop.check()
                if self._session.was_read_from(source.key(side), source.path):
                    # The session may know of it what the file does not: where somebody has set AC and PC.
                    yield self._stored(Stored(self._session.root, source.key(side)))
                else:
                    new.append(side)
            if new:
                yield from self._from_source(source, tuple(new), stop)

    def _from_source(self, source: Source, sides: tuple[Any, ...], stop: StopToken) -> Iterator[_Job]:
        for event in source.read(sides, stop):
            if isinstance(event, Step):
                self._tell(source.path.name, event.sentence)
            elif self._session.has_same(event) and self._is_done(event):
                yield replace(self._done(event.key), case=event, source=source.path)
            else:
                yield _Job(event, event.key.stem, source.path)

    def _stored(self, given: Stored) -> _Job:
        own = given.path.resolve() == self._session.root.resolve()
        if own and not self._again and self._session.is_predicted(given.key, self._model.digest):
            return self._done(given.key)
        case = (self._session if own else Session.open(given.path)).load(given.key)
        if not own and self._session.has_same(case) and self._is_done(case):
            return self._done(given.key)
        return _Job(case, case.key.stem)

    def _is_done(self, case: Case) -> bool:
        return not self._again and self._session.is_predicted(case.key, self._model.digest)

    def _done(self, key: Any) -> _Job:
        return _Job(None, key.stem, record=stored_record(self._session, key))

    def _prepare(self, job: _Job, stop: StopToken) -> _Job:
        if job.case is None or job.record is not None:
            return job
        if self._kept is not None and not self._again:
            job.prediction = self._kept.get(job.case, self._model)
        if job.prediction is None:
            job.steps = iter(
                predict_steps(job.case, self._network, self._model, self._device, stop=stop, **self._options)
            )
            self._advance(job, "prepare", until="network")
        return job

    def _infer(self, job: _Job, _stop: StopToken) -> _Job:
        return self._advance(job, "network", until="postprocess")

    def _measure(self, job: _Job, _stop: StopToken) -> _Job:
        return self._advance(job, "postprocess", until=None)

    @staticmethod
    def _advance(job: _Job, stage: str, until: str | None) -> _Job:
        """Go on with a prediction until a stage begins: its steps may be taken in one thread after another."""
        if job.steps is None or job.prediction is not None:
            return job
        start = time.perf_counter()
        for event in job.steps:
            if isinstance(event, Prediction):
                job.prediction = event
            elif event.name == until:
                break
        job.seconds[stage] = time.perf_counter() - start
        return job

    def _write(self, job: _Job, _stop: StopToken) -> _Job:
        case, prediction = job.case, job.prediction
        if case is not None and job.record is not None:
            self._session.add(case, job.source)  # from now on it is known without being read
        if case is None or prediction is None:
            return job
        if not prediction.kept:
            prediction = self._with_own_figures(prediction, job.seconds)
        _, outputs = store_prediction(self._session, case, prediction, job.source, read_s=job.read_s)
        job.record = prediction_record(case, prediction, read_s=job.read_s, outputs=outputs)
        job.case = job.prediction = job.steps = None
        return job

    def _with_own_figures(self, prediction: Prediction, seconds: dict[str, float]) -> Prediction:
        """Return a prediction with the time that it took without waiting, and the peak of all cases in flight."""
        self._peak_mb = max(self._peak_mb, prediction.peak_memory_mb)
        timings = MappingProxyType({**seconds, "total": sum(seconds.values())})
        return replace(prediction, timings_s=timings, peak_memory_mb=self._peak_mb)


def _outcome(ended: Ended[_Job]) -> CaseOutcome:
    (number, given), (_, part) = ended.item, ended.number
    if ended.error is None and ended.result is not None and ended.result.record is not None:
        record = ended.result.record
        state: Literal["predicted", "skipped"] = "skipped" if record.get("skipped") else "predicted"
        return CaseOutcome((number, part), ended.result.name, given.path, state, record)
    error = ended.error or InputError(found="no prediction", expected="one", path=given.path)
    name = ended.given.name if ended.given is not None else given.name
    if not isinstance(error, PcsError):
        _log.error("%s could not be predicted (%s).", name, ended.stage, exc_info=error)
    return CaseOutcome((number, part), name, given.path, "failed", error=error)
