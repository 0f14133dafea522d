"""prepare."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_pcs.cli.options import INPUT_HELP, AsJson, app, reported, say, show
from napari_pcs.errors import CancelledError, PcsError


class Sides(StrEnum):
    """Which hemispheres to prepare."""

    LEFT = "L"
    RIGHT = "R"
    BOTH = "both"


@app.command()
@reported
def prepare(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help=INPUT_HELP)],
    session: Annotated[Path, typer.Option(help="Session folder to write into.")],
    hemisphere: Annotated[Sides, typer.Option(help="Side to prepare; both are every side that an input has.")] = (
        Sides.BOTH
    ),
    priors: Annotated[
        Path | None, typer.Option(help="Folder of frequency maps in MNI152 for the proposal, instead of the shipped.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Scans to work on at the same time on this machine.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running dask cluster to use instead.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare again what the session has already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn scans into cases of a session: hemispheres with AC and PC, skeleton, fold pieces and a proposed PCS."""
    from napari_pcs.anatomy.sources import find_sources
    from napari_pcs.labels import Hemisphere
    from napari_pcs.prepare import Task
    from napari_pcs.session import Session

    side = None if hemisphere is Sides.BOTH else Hemisphere(hemisphere.value)
    target = Session.create(session)
    cases: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    tasks = []
    for path in inputs:
        try:
            tasks += [Task(source, target.root, priors, force) for source in find_sources(path, side)]
        except PcsError as error:
            failed.append(_failure(path, str(error)))
    if jobs == 1 and scheduler is None:
        _one_by_one(tasks, cases, failed)
    else:
        _together(tasks, None if scheduler else jobs, scheduler, cases, failed)
        target.list_participants()
    text = f"{_count(cases, 'case')} in {session}" + (f"; {_count(failed, 'input')} failed" if failed else "")
    show({"cases": cases, "failed": failed}, as_json=as_json, text=text)
    if failed:
        raise typer.Exit(1)


def _one_by_one(tasks: list[Any], cases: list[dict[str, Any]], failed: list[dict[str, str]]) -> None:
    """Prepare in this process; a case is in the records as soon as the session has it."""
    from napari_pcs.anatomy.progress import Step
    from napari_pcs.prepare import record_of

    for task in tasks:
        path = task.source.path
        try:
            for event in task.events():
                if isinstance(event, Step):
                    say(f"{path.name}: {100 * event.fraction:3.0f} %  {event.sentence}")
                else:
                    cases.append(record_of(event, path))
        except CancelledError:
            raise
        except PcsError as error:
            failed.append(_failure(path, str(error)))


def _together(
    tasks: list[Any],
    jobs: int | None,
    scheduler: str | None,
    cases: list[dict[str, Any]],
    failed: list[dict[str, str]],
) -> None:
    """Prepare through dask: what is done is skipped, what fails is reported and stops nothing."""
    from napari_pcs.cohort import run_cohort
    from napari_pcs.prepare import Task

    outcomes = run_cohort(Task.run, tasks, name=Task.name, done=Task.is_done, jobs=jobs, scheduler=scheduler)
    named = {task.name(): task for task in tasks}
    for n, outcome in enumerate(outcomes, 1):
        say(f"{n} of {len(tasks)}: {outcome.name} {outcome.state}")
        task = named[outcome.name]
        if outcome.state == "failed":
            failed.append(_failure(task.source.path, outcome.reason))
        elif outcome.result is not None:
            cases.extend(outcome.result)
        else:
            cases.extend({**key, "skipped": outcome.state == "skipped"} for key in task.cases())


def _failure(path: Path, reason: str) -> dict[str, str]:
    say(f"Error: {reason}")
    return {"input": str(path), "reason": reason}


def _count(things: list[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
