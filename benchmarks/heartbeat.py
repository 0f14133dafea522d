"""How the window answers while a model is tuned behind it, in a real viewer with a real worker.

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/heartbeat.py
    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/heartbeat.py --session a/session --seconds 30

A script scrolls through slices and paints labels, with a pause now and then as a person makes, while a
timer of 10 ms beats in the same thread. Given is how far apart the beats were: with the worker idle,
while it computes ahead what tuning needs (only if there is some left to compute), and while it tunes.
What the window draws itself is in all of them, so their ratio says what the worker costs. Then:
seconds from the click on Tune to the first point on the curve, with the worker warm and everything
computed ahead, and from Cancel to the end. Where beats were late, it says what the thread was in.

Without --session it makes one of phantoms, corrected. A session that is given is copied first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
import psutil
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_pcs.bids import CaseKey
from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.gui.ahead import Ahead
from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of
from napari_pcs.labels import Hemisphere
from napari_pcs.provenance import Provenance
from napari_pcs.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

BEAT_MS = 10
LATE_S = 0.1
PACE_MS = 40
BUSY, PAUSE = 25, 8
"""Moves of the script, then so many without one."""


class Heart:
    """Beats in the GUI thread; another thread looks where that is when a beat is late."""

    def __init__(self) -> None:
        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(BEAT_MS)
        self._last = time.perf_counter()
        self._gui = threading.get_ident()
        self.gaps: list[float] = []
        self.late: Counter[str] = Counter()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def stop(self) -> None:
        self._timer.stop()
        self._over.set()
        self._watch.join()

    def begin(self) -> None:
        self.gaps, self.late = [], Counter()
        self._last = time.perf_counter()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        self._last = now

    def _look(self) -> None:
        while not self._over.wait(BEAT_MS / 1000):
            if time.perf_counter() - self._last > LATE_S:
                frame = sys._current_frames().get(self._gui)  # noqa: SLF001  what faulthandler uses too
                self.late[_where(frame)] += 1


def _where(frame: Any) -> str:
    """Return the package's innermost function on a stack, and the innermost of all."""
    stack = traceback.extract_stack(frame)
    ours = [f"{Path(f.filename).stem}.{f.name}" for f in stack if "napari_pcs" in f.filename]
    inner = stack[-1]
    return f"{ours[-1] if ours else 'not ours'} ({Path(inner.filename).stem}.{inner.name})"


class Hand:
    """Scrolls, paints and erases as a person does, by a timer of its own."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer, self._n = viewer, 0
        self._rng = np.random.default_rng(0)
        self._stroke: list[tuple[int, int, int]] = []
        self._timer = QTimer()
        self._timer.timeout.connect(self._move)
        self._timer.start(PACE_MS)

    def stop(self) -> None:
        self._timer.stop()

    def _move(self) -> None:
        self._n += 1
        if self._n % (BUSY + PAUSE) >= BUSY:
            return
        layer = self._viewer.layers["labels"]
        shape = layer.data.shape
        if self._n % 2:
            self._viewer.dims.set_current_step(0, shape[0] // 2 + self._n % 20)
        elif self._stroke:
            for place in self._stroke:
                layer.paint(place, 0)
            self._stroke = []
        else:
            y, z = (int(n // 4 + self._rng.integers(n // 2)) for n in shape[1:])
            self._stroke = [(self._viewer.dims.current_step[0], y + step, z) for step in range(5)]
            for place in self._stroke:
                layer.paint(place, 2)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--session", type=Path)
    options.add_argument("--strategy", default="top")
    options.add_argument("--seconds", type=float, default=20.0, help="of each part")
    options.add_argument("--wait", type=float, default=900.0, help="seconds to compute ahead at most")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NAPARI_PCS_CACHE", str(Path(folder) / "cache"))
        session = Path(folder) / "session"
        if given.session:
            shutil.copytree(given.session, session)
        else:
            make(session)
        run(session, given)


def make(folder: Path) -> None:
    session = Session.create(folder)
    for n, length in enumerate((0.0, 30.0, 60.0)):
        case = replace(
            phantom(Hemisphere.LEFT, pcs_length_mm=length, seed=n), key=CaseKey(f"p{n}", "", Hemisphere.LEFT)
        )
        labels = case.labels[LabelRole.REFERENCE].data
        session.add(replace(case, labels={}))
        session.write_labels(
            case.with_labels(LabelRole.CORRECTED, labels, Provenance(manual=True, hemisphere="L")), LabelRole.CORRECTED
        )


def run(folder: Path, given: argparse.Namespace) -> None:
    viewer = napari.Viewer(title="heartbeat")
    workspace = open_workspace(viewer)
    state, ahead, tune = state_of(viewer), Ahead.of(viewer), workspace.panels["Tune"]
    ready: list[str] = []
    ahead.told.connect(lambda event: ready.append(event.case) if getattr(event, "what", "") == "features" else None)
    do = workspace.panels["Load"].do
    tune.form.set("strategy", given.strategy)
    workspace.show_panel("Tune")
    do.open_session(folder)
    wait_for(lambda: state.listing.keys)
    count = len(state.listing.corrected)
    do.open_case(min(state.listing.corrected))
    wait_for(lambda: state.case is not None and state.job is None)
    wait_for(lambda: state.worker is not None and state.worker.wait_until_ready(0.01))
    heart, hand = Heart(), Hand(viewer)
    spin(2.0)
    print(f"{count} corrected cases, {given.strategy}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print(f"{'':26}{'beats':>7}{'median':>9}{'95 %':>9}{'99 %':>9}{'longest':>9}   ms")
    if len(set(ready)) < count:
        record(heart, "computing ahead", given.seconds)
        hand.stop()
        wait_for(lambda: len(set(ready)) >= count, given.wait)
        spin(3.0)
        hand = Hand(viewer)
        spin(2.0)
    idle = record(heart, "worker idle", given.seconds)
    heart.begin()
    while_painting = first_point(tune, state, given.wait)
    spin(max(0.0, given.seconds - while_painting[0]))
    busy = tell(heart, "worker tunes")
    steps = len(tune.curves.lines["loss"].getData()[0])
    hand.stop()
    ended = [cancel(workspace, state)]
    spin(2.0)
    while_waiting = first_point(tune, state, given.wait)
    ended.append(cancel(workspace, state))
    print(f"tuning against idle: 95 % {busy[0] / idle[0]:.2f}, longest {busy[1] / idle[1]:.2f}")
    for what, (seconds, computed) in (("while somebody paints", while_painting), ("with hands off", while_waiting)):
        print(f"click Tune to first point, {what}: {seconds:.2f} s, {computed:.2f} s of the worker's processor time")
    print(f"{steps} steps; Cancel to end {max(ended):.2f} s at most ({state.message.text})")
    heart.stop()
    viewer.close()
    QApplication.processEvents()


def first_point(tune: Any, state: Any, patience_s: float) -> tuple[float, float]:
    """Click Tune and wait for a curve; return the seconds it took, and the worker's processor time meanwhile."""
    process = psutil.Process(state.worker.pid)
    began, computed = time.perf_counter(), sum(process.cpu_times()[:2])
    tune.run.click()

    def points() -> int:
        found = tune.curves.lines["loss"].getData()[0] if state.tuning_job is not None else None
        return 0 if found is None else len(found)

    wait_for(points, patience_s)
    return time.perf_counter() - began, sum(process.cpu_times()[:2]) - computed


def cancel(workspace: Any, state: Any) -> float:
    """Return the seconds from the click on Cancel to the end of the tuning."""
    began = time.perf_counter()
    workspace.status.stop_tuning.click()
    wait_for(lambda: state.tuning_job is None)
    return time.perf_counter() - began


def record(heart: Heart, name: str, seconds: float) -> tuple[float, float]:
    heart.begin()
    spin(seconds)
    return tell(heart, name)


def tell(heart: Heart, name: str) -> tuple[float, float]:
    gaps = np.array(heart.gaps) * 1000
    middle, most, nearly, longest = *np.percentile(gaps, (50, 95, 99)), gaps.max()
    print(f"{name:26}{len(gaps):7}{middle:9.1f}{most:9.1f}{nearly:9.1f}{longest:9.1f}")
    for where, times in heart.late.most_common(6):
        print(f"    late in {where}: {times * BEAT_MS} ms")
    return float(most), float(longest)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    wait_for(lambda: time.perf_counter() > end, seconds + 60)


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    """Run the event loop, which sleeps where nothing happens, until the condition holds."""
    end = time.perf_counter() + seconds
    loop_done = False
    while not loop_done:
        QApplication.processEvents()
        time.sleep(0.001)
        loop_done = bool(condition())
        if time.perf_counter() > end:
            sys.exit("It took too long.")


if __name__ == "__main__":
    main()
