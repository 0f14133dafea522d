"""What a case costs in a session of 1,000 cases against one of 10: opened, predicted, corrected, tuned on, added.

Predicted and tuned are all that is around the network: what opens a prediction that is kept, what
stores a new one, and of tuning what comes before its steps and between them: whether corrected cases
have changed, who is held out, who is rehearsed, which patches are drawn.

    python benchmarks/session_size.py
    python benchmarks/session_size.py --counts 10 1000 --rounds 30 --spacing 1

The sessions are made of links to the files of one phantom, two hemispheres a person, of which four
cases are corrected whatever the session's size; the others are opened. Both are measured in turn, so
that other work on the machine concerns both; given are medians of wall and of processor time (the
disk's part is only in the first). Listing is no cost of a case: for it the last figure is that by case of the session.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.bids import CaseKey
from napari_pcs.case import LabelRole
from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.kept import KeptPredictions
from napari_pcs.labels import Hemisphere, PcsClass
from napari_pcs.models.folders import ModelFolder
from napari_pcs.pipeline import store_prediction
from napari_pcs.prediction import Prediction
from napari_pcs.provenance import ModelReference, Provenance
from napari_pcs.session import Session
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.people import cast
from napari_pcs.tuning import labelled_case

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_pcs.case import Case

CORRECTED = 4
MODEL = ModelReference(name="made up", digest="00")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--counts", type=int, nargs=2, default=[10, 1000])
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--spacing", type=float, default=1.0, help="voxel size in mm: larger makes smaller cases")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sessions = [make(Path(folder) / f"cases-{n}", n, given.spacing) for n in given.counts]
        figures = measure([Actions(session) for session in sessions], given.rounds)
    few, many = given.counts
    print(f"{'':34}{few:>8} cases {many:>8} cases   ratio (processor)    wall, ms")
    for name, (one, two) in figures.items():
        (few_wall, few_cpu), (many_wall, many_cpu) = one, two
        share = few / many if "list" in name else 1.0
        print(
            f"{name:34}{few_cpu:11.2f} ms {many_cpu:11.2f} ms {share * many_cpu / few_cpu:9.2f}"
            f"{few_wall:16.1f} {many_wall:8.1f} {share * many_wall / few_wall:6.2f}"
        )


def make(root: Path, count: int, spacing: float) -> Session:
    """Make a session of so many cases; the first ones are corrected."""
    session = Session.create(root)
    for side in Hemisphere:
        case = replace(phantom(side, spacing_mm=spacing), labels=MappingProxyType({}))
        case = replace(case, key=CaseKey("0000", "", side))
        case, _ = store_prediction(session, case, prediction_of(case))
        correct(session, session.load(case.key))
    template = [path for path in session.root.glob("sub-0000/**/*") if path.is_file()]
    for n in range(1, (count + 1) // 2):
        for path in template:
            if n >= CORRECTED // 2 and "_desc-corr_" in path.name:
                continue
            new = Path(str(path).replace("sub-0000", f"sub-{n:04}"))
            new.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, new)
    session.list_participants()
    return session


def prediction_of(case: Case) -> Prediction:
    labels = np.zeros(case.tissue.shape, np.uint8)
    labels[case.tissue.data == 1] = 1
    labels[10:20, 40:60, 40:60] *= 2
    probabilities = np.stack([labels >= 1, labels == 2], axis=-1).astype(np.float32) * np.float32(0.9)
    shares = MappingProxyType(dict.fromkeys(PcsClass.measured(), 1 / 3))
    seconds = MappingProxyType(dict.fromkeys(("prepare", "network", "postprocess", "total"), 0.0))
    return Prediction(labels, probabilities, shares, None, 0.5, seconds, 0.0, "cpu", "whole", MODEL)


def correct(session: Session, case: Case) -> None:
    before = case.labels[LabelRole.PREDICTED].data
    labels = before.copy()
    labels[10:14, 40:44, 40:44] = 2
    provenance = Provenance(manual=True, hemisphere=case.key.hemisphere.value, editor="ada", edit_seconds=1)
    session.write_correction(case.with_labels(LabelRole.CORRECTED, labels, provenance), before, 1.0)


class Actions:
    """What a person or a program does in a session, a case at a time."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.keys_corrected = session.corrected_keys()
        corrected = set(self.keys_corrected)
        self.keys = [
            key
            for key in session.keys()  # noqa: SIM118
            if key.hemisphere is Hemisphere.LEFT and key not in corrected
        ]
        self.turn = 0
        self.added = 0
        self.corrected = session.load(self.keys_corrected[0])
        self.case = replace(self.corrected, labels=MappingProxyType({}))
        self.prediction = prediction_of(self.case)
        self.model = ModelFolder(session.root / "models" / "none")
        self.kept = KeptPredictions(Bundles(session.root.with_suffix(".kept"), 10**9))
        self.kept.put(self.case, self.prediction)

    def key(self) -> CaseKey:
        self.turn += 1
        return self.keys[self.turn % len(self.keys)]

    def all(self) -> dict[str, Callable[[], object]]:
        return {
            "open the session": lambda: Session.open(self.session.root),
            "list all cases": lambda: Session.open(self.session.root).keys(),
            "list them again": self.session.keys,
            "list the corrected ones": self.session.corrected_keys,
            "open a case": lambda: self.session.load(self.key()),
            "open a kept prediction": lambda: self.kept.get(self.session.load(self.key()), MODEL),
            "store a prediction": self.predict,
            "see that one is there": lambda: self.session.is_predicted(self.key(), MODEL.digest),
            "save a correction": self.correct,
            "tune: files looked at, draw": self.tune,
            "read what tuning reads": lambda: [self.session.load(key) for key in self.keys_corrected],
            "add the case of a new person": self.add,
        }

    def predict(self) -> None:
        store_prediction(self.session, replace(self.case, key=self.key()), self.prediction)

    def correct(self) -> None:
        self.session.add(self.corrected)
        correct(self.session, self.corrected)

    def tune(self) -> None:
        """Do what comes before the first step for the corrected cases, and draw the patches of a hundred."""
        cases = [labelled_case(self.session, key) for key in self.keys_corrected]
        roles = cast(cases, self.model, TuneConfig())
        for number in range(100):
            roles.draw(number)

    def add(self) -> None:
        self.added += 1
        key = CaseKey(f"new{self.added:04}", "", self.case.key.hemisphere)
        self.session.add(replace(self.case, key=key))


def measure(actions: list[Actions], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return medians (wall ms, processor ms) of every action, for each session."""
    figures = {}
    for name in actions[0].all():
        taken: list[list[tuple[float, float]]] = [[] for _ in actions]
        for n in range(rounds + 1):
            for one, times in zip(actions, taken, strict=True):
                wall, cpu = time.perf_counter(), time.process_time()
                one.all()[name]()
                if n:
                    times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
        figures[name] = [(median(w for w, _ in times), median(c for _, c in times)) for times in taken]
        print(f"{name} measured", file=sys.stderr)
    return figures


if __name__ == "__main__":
    main()
