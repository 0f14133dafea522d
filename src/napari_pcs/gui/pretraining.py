"""Pre-train in a process of its own, beside whatever else the viewer does, and follow it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from napari_pcs.errors import CancelledError, PcsError
from napari_pcs.gui.command import Command
from napari_pcs.gui.jobs import Job
from napari_pcs.gui.watched import Watched, Watcher
from napari_pcs.training.choices import Choices
from napari_pcs.training.journal import read_events
from napari_pcs.training.lock import is_locked
from napari_pcs.training.pace import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_pcs.gui.state import State
    from napari_pcs.stop import StopToken

__all__ = ["Stage", "ask_choices", "follow", "leave", "resume_run", "start_stage", "stopped_runs"]

_INTERVAL_S = 0.2
_TAIL = 1 << 16
"""Bytes at the end of a run's events that surely hold the last one."""


@dataclass(frozen=True)
class Stage:
    """What to pre-train; None leaves a setting to the command.

    Attributes
    ----------
    data
        Folder of the hemispheres.
    begin_from
        Name or folder of a model, None for random weights.
    """

    objective: str
    data: Path
    begin_from: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    name: str | None = None


def start_stage(state: State, stage: Stage) -> None:
    """Start a stage; its run and its model go into the session."""
    session = state.session
    if session is None:
        state.say("Found no session to keep the model in. Choose a session folder in Load first.", error=True)
    elif not stage.data.is_dir():
        state.say(f"Found no folder {stage.data}, expected one with hemispheres to learn from.", error=True)
    else:
        _start(state, f"Pre-training by {stage.objective}", stage_command(stage, session.root))


def resume_run(state: State, run: Path) -> None:
    """Go on with a run that was stopped."""
    _start(state, f"Going on with {run.name}", resume_command(run))


def leave(state: State) -> None:
    """Let the run save and end; its viewer hears no more of it."""
    job = state.pretraining
    if job is not None:
        job.cancel()
        job.blockSignals(True)
        with state.events.pretraining.blocked():
            state.pretraining = None


def stage_command(stage: Stage, out: Path) -> list[str]:
    """Return the command line of a stage."""
    options = {
        "--objective": stage.objective,
        "--data": stage.data,
        "--out": out,
        "--recipe": stage.recipe,
        "--init": stage.begin_from,
        "--epochs": stage.epochs,
        "--batch-size": stage.batch_size,
        "--name": stage.name,
    }
    given = [str(part) for option, value in options.items() if value is not None for part in (option, value)]
    return [sys.executable, "-m", "napari_pcs", "pretrain", *given, "--json"]


def resume_command(run: Path) -> list[str]:
    """Return the command line that goes on with a run."""
    return [sys.executable, "-m", "napari_pcs", "pretrain", "--resume", str(run), "--json"]


def follow(arguments: list[str], stop: StopToken) -> Iterator[Watched]:
    """Run a command that trains, and yield how it stands whenever that has changed.

    Raises
    ------
    CancelledError
        If it was told to stop and had nothing to save.
    PcsError
        If it failed; with its own sentence.
    """
    with Command(arguments) as command:
        watcher: Watcher | None = None
        run, offset, last = None, 0, None
        while True:
            ended = command.exit_code is not None  # asked before reading: nothing is written after it
            run = run or command.run
            if run is not None:
                watcher = watcher or Watcher(run)
                events, offset = read_events(run / "events.jsonl", offset)
                if events or last is None:
                    last = watcher.hear(events)
                    yield last
            if ended:
                break
            if stop.is_set():
                command.tell_to_stop()
            time.sleep(_INTERVAL_S)
        if last is not None and last.stopped is not None:
            return
        if stop.is_set() and (last is None or last.result is None):
            msg = "Stopped before there was anything to save."
            raise CancelledError(msg)
        command.require_success()
        if last is None or last.result is None:
            msg = "The command ended without a model, expected one. The run's events.jsonl has what happened."
            raise PcsError(msg)


def stopped_runs(runs: Path) -> list[Path]:
    """Return the pre-training runs in a folder that were stopped before they were complete, the newest first.

    Those that some process is training were not stopped.
    """
    found = sorted(runs.glob("*/events.jsonl"), reverse=True)
    return [path.parent for path in found if _can_go_on(path) and not is_locked(path.parent)]


def ask_choices(show: Callable[[Choices], None], fail: Callable[[str], None]) -> Job:
    """Ask in a process of its own what there is to choose from: this one is spared torch."""

    def work(stop: StopToken) -> Iterator[Any]:
        asked = [sys.executable, "-m", "napari_pcs.training.choices"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603  our own command
        stop.check()
        try:
            yield Choices.model_validate_json(done.stdout)
        except ValidationError as error:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            msg = f"The objectives could not be listed ({last})."
            raise PcsError(msg) from error

    job = Job("Listing the objectives", work)
    job.done.connect(show)
    job.failed.connect(fail)
    job.start()
    return job


def _can_go_on(events: Path) -> bool:
    run = events.parent
    settings = run / "config.json"
    if not any(run.glob("checkpoint*")) or not settings.exists() or b'"objective"' not in settings.read_bytes():
        return False
    with events.open("rb") as stream:
        stream.seek(max(events.stat().st_size - _TAIL, 0))
        whole = stream.read().rpartition(b"\n")[0]  # a killed process may leave half a line behind it
    last = whole.rpartition(b"\n")[2]
    return b'"event": "Pretrained"' not in last


def _start(state: State, title: str, arguments: list[str]) -> None:
    if state.pretraining is not None:
        state.say(f"{state.pretraining.title} is still running. Wait, or stop it.", error=True)
        return
    job = Job(title, lambda stop: follow(arguments, stop))

    def watch(watched: Watched) -> None:
        state.watched = watched

    def over(text: str, *, error: bool = False) -> None:
        state.pretraining = None
        state.say(text, error=error)
        state.events.model.emit(state.model)  # there may be a new one to list

    job.event.connect(watch)
    job.done.connect(lambda watched: over(_summary(watched)))
    job.failed.connect(lambda text: over(text, error=True))
    job.cancelled.connect(lambda: over(f"{title}: stopped. There was nothing to save yet."))
    state.watched = None
    state.say(title)
    state.pretraining = job
    job.start()


def _summary(watched: Watched) -> str:
    if watched.stopped is not None:
        return f"{watched.run.name}: stopped after step {watched.stopped.step}, with a checkpoint. It can go on."
    result = watched.result
    assert result is not None  # noqa: S101  `follow` ends with one or the other
    how = "got no better and ended" if result.stopped == "early" else "done"
    return (
        f"{result.model.name}: {how} after {result.epochs} epochs ({clock(result.seconds_total)} h)."
        " It is in the list of models: tune it on corrections before you predict with it."
    )
