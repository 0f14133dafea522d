"""Stands in for the worker's client: the same calls and events, nothing computed.

`made` has every one that was made; how it behaves is set on the class, and undone by `reset`.
"""

import shutil
import threading
import time
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from napari_pcs.anatomy.length import measure_case
from napari_pcs.errors import CancelledError
from napari_pcs.labels import PcsClass
from napari_pcs.metrics.report import CaseReport, LabelMetrics
from napari_pcs.models.folders import find_model, new_model_path
from napari_pcs.prediction import Prediction, Stage
from napari_pcs.session import Session
from napari_pcs.training.events import Epoch, Judged, Preparing, Started, Step, Tuned
from napari_pcs.worker.events import Prefetched
from napari_pcs.worker.messages import Predict, Prefetch, Tune, Warm
from napari_pcs.worker.process import WorkerError

BETTER = ((0.40, 0.52), (0.61, 0.66), (14.0, 6.0), (9.0, 5.0))
"""PCS Dice, skeleton Dice, length error (mm) and Hausdorff distance of the PCS (mm), each before and after."""
WORSE = ((0.52, 0.40), (0.61, 0.60), (6.0, 14.0), (5.0, 9.0))


class FakeWorker:
    made: ClassVar[list] = []
    step_s = 0.0
    steps = 24
    figures = BETTER
    held_out = ("sub-09_hemi-L", "sub-10_hemi-L")
    dies = False
    refuses = False
    deaf = False
    prefetches = True

    @classmethod
    def reset(cls):
        cls.made = []
        for name in ("step_s", "steps", "figures", "held_out", "dies", "refuses", "deaf", "prefetches"):
            setattr(cls, name, _DEFAULTS[name])

    def __init__(self, command=None):
        FakeWorker.made.append(self)
        self.requests, self.threads, self.kept = [], [], set()
        self.pid, self.killed = None, 0
        self.closed = threading.Event()

    def start(self):
        if self.refuses:
            msg = "The worker could not be started (No such file or directory). Close other programs, and try again."
            raise WorkerError(msg)
        if self.pid is None:
            self.pid = 100 + self.killed

    def asked(self, kind):
        return [request for request in self.requests if isinstance(request, kind)]

    def send(self, request, heard=None):
        self._take(request)
        if isinstance(request, Prefetch) and heard is not None and self.prefetches:

            def work():
                for case in request.cases:
                    self.kept.add((request.model, case))
                    heard(Prefetched(case=case, what="prediction"))

            threading.Thread(target=work).start()

    def run(self, request, stop, *, patience_s=10.0, case=None):
        stop.check()
        self._take(request)
        if self.dies:
            self.pid = None
            msg = "The worker ended unexpectedly (SIGKILL). The labels are untouched; it starts anew."
            raise WorkerError(msg)
        match request:
            case Predict():
                yield from self._predict(request, stop, patience_s, case)
            case Tune():
                yield from self._tune(request, stop)
            case Warm():
                yield Stage("prepare", f"Loading {request.model}")

    def close(self, seconds=2.0):
        self.closed.set()
        self.pid = None

    def _take(self, request):
        self.start()
        self.requests.append(request)
        self.threads.append(threading.current_thread())

    def _predict(self, request, stop, patience_s, case):
        was_kept = (request.model, case.key.stem) in self.kept
        if not was_kept:
            yield Stage("network", f"Running {request.model} on cpu")
            end, told_at = time.monotonic() + self.steps * self.step_s, None
            while time.monotonic() < end:
                time.sleep(0.01)
                told_at = time.monotonic() if stop.is_set() and told_at is None else told_at
                if told_at is not None and (not self.deaf or time.monotonic() - told_at > patience_s):
                    self.pid, self.killed = (None, self.killed + 1) if self.deaf else (self.pid, self.killed)
                    msg = "Cancelled. Nothing was changed."
                    raise CancelledError(msg)
        models = [Path(folder) for folder in request.models]
        yield prediction_of(case, find_model(request.model, *models).reference, kept=was_kept)

    def _tune(self, request, stop):
        session = Session.open(request.session)
        base = find_model(request.model, session.models)
        yield Preparing(sentence=f"Loading {base.name}")
        corrected = [key.stem for key in session.corrected_keys()]
        yield started(request.config, corrected, self.held_out)
        done = 0
        for done in range(1, self.steps + 1):
            if stop.is_set():
                break
            time.sleep(self.step_s)
            yield step(done, request.config.round_steps, self.step_s)
            if done % request.config.round_steps == 0:
                yield epoch(done // request.config.round_steps, held_out=bool(self.held_out))
        cancelled = stop.is_set()
        judged = () if cancelled else self.held_out
        before, after = (reports(judged, [f[moment] for f in self.figures]) for moment in (0, 1))
        if judged:
            yield Preparing(sentence=f"Predicting {len(judged)} held-out cases before and after")
        yield Judged(moment="before", reports=before)
        yield Judged(moment="after", reports=after)
        target = new_model_path(session.models, request.name, f"{base.name}-{request.config.strategy}")
        shutil.copytree(base.path, target)
        yield Tuned(
            model=base.reference.model_copy(update={"name": target.name}),
            path=str(target),
            run=str(session.root / "runs"),
            strategy=request.config.strategy,
            trainable_parameters=79_600,
            total_parameters=1_000_000,
            epochs=1.5,
            rounds=done // request.config.round_steps,
            best_step=done,
            stopped="cancelled" if cancelled else "budget",
            seconds_per_epoch=None,
            seconds_total=31.0,
            before=before,
            after=after,
            held_out_cases=self.held_out,
        )


_DEFAULTS = {name: value for name, value in vars(FakeWorker).items() if not name.startswith("__")}


def labels_of(case):
    """Labels that follow from the tissue alone: its grey matter in a slab, and a bar of PCS in it."""
    labels = np.zeros(case.tissue.shape, np.uint8)
    middle = [n // 2 for n in labels.shape]
    labels[middle[0]] = case.tissue.data[middle[0]] > 0
    labels[middle[0], middle[1] - 8 : middle[1] + 8, middle[2]] = 2
    return labels


def prediction_of(case, model, *, kept=False):
    labels = labels_of(case)
    return Prediction(
        labels=labels,
        probabilities=np.stack([labels >= 1, labels == 2], axis=-1).astype(np.float32),
        class_probabilities=MappingProxyType(dict.fromkeys(PcsClass.measured(), 1 / 3)),
        measurement=measure_case(case, labels),
        uncertainty=0.1,
        timings_s=MappingProxyType({"prepare": 0.1, "network": 0.7, "postprocess": 0.2, "total": 1.0}),
        peak_memory_mb=900.0,
        device="cpu",
        mode="whole",
        model=model,
        kept=kept,
    )


def started(config, training, held_out):
    return Started(
        what=config.strategy,
        network={},
        trainable_parameters=79_600,
        total_parameters=1_000_000,
        training=tuple(training),
        held_out=held_out,
        epochs=config.rounds or 0,
        steps=(config.rounds or 0) * config.round_steps,
        device="cpu",
        precision="fp32",
        processes=1,
        batch_size=config.batch_size,
        micro_batch=config.batch_size,
    )


def step(number, round_steps, seconds):
    fading = np.exp(-number / 12)
    wobble = 0.04 * np.sin(number * 1.7)
    return Step(
        step=number,
        epoch=(number - 1) // round_steps + 1,
        loss=0.35 + 0.9 * fading + wobble,
        figures={"dice_skeleton": 0.7 - 0.3 * fading, "dice_pcs": 0.55 - 0.5 * fading + wobble},
        learning_rate=1e-3,
        gradient_norm=1.0,
        samples=2,
        seconds=seconds,
    )


def epoch(number, *, held_out):
    return Epoch(
        epoch=number,
        loss=0.4 + 0.8 * np.exp(-number / 2),
        validation_loss=0.5 + 0.8 * np.exp(-number / 2) if held_out else None,
        judged=0.45 + 0.15 * np.exp(-number / 2) if held_out else 0.4 + 0.8 * np.exp(-number / 2),
        figures={"dice_skeleton": 0.6, "dice_pcs": 0.5 - 0.3 * np.exp(-number / 2)} if held_out else {},
        learning_rate=1e-3,
        seconds=1.0,
        samples_per_second=16.0,
        seconds_left=0.0,
        memory_mb=900.0,
        utilisation=None,
        power_w=None,
    )


def reports(cases, figures):
    pcs, skeleton, error, *distance = figures
    return tuple(
        CaseReport(
            case=case,
            labels={
                "pcs": LabelMetrics(outcome="compared", dice=pcs, hd95_mm=distance[0] if distance else None),
                "skeleton": LabelMetrics(outcome="compared", dice=skeleton),
            },
            length_error_mm=error * (-1) ** n,
        )
        for n, case in enumerate(cases)
    )
