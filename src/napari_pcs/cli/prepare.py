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
    force: Annotated[bool, typer.Option("--force", help="Prepare again what the session has already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn scans into cases of a session: hemispheres with commissures and skeleton."""
    from napari_pcs.anatomy.sources import find_sources
    from napari_pcs.labels import Hemisphere
    from napari_pcs.session import Session

    side = None if hemisphere is Sides.BOTH else Hemisphere(hemisphere.value)
    target = Session.create(session)
    cases: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for path in inputs:
        try:
            sources = find_sources(path, side)
        except PcsError as error:
            failed.append(_failure(path, error))
            continue
        for source in sources:
            try:
                _prepare_one(source, target, force, cases)
            except CancelledError:
                raise
            except PcsError as error:
                failed.append(_failure(source.path, error))
    text = f"{_count(cases, 'case')} in {session}" + (f"; {_count(failed, 'input')} failed" if failed else "")
    show({"cases": cases, "failed": failed}, as_json=as_json, text=text)
    if failed:
        raise typer.Exit(1)


def _prepare_one(source: Any, session: Any, force: bool, cases: list[dict[str, Any]]) -> None:
    """Prepare one source and add the record of each of its cases, as soon as the session has it."""
    from napari_pcs.anatomy.progress import Step
    from napari_pcs.prepare import prepare as run
    from napari_pcs.stop import StopToken

    for event in run(source, session, stop=StopToken(), force=force):
        if isinstance(event, Step):
            say(f"{source.path.name}: {100 * event.fraction:3.0f} %  {event.sentence}")
        else:
            cases.append(record_of(event, source.path))


def record_of(prepared: Any, path: Path) -> dict[str, Any]:
    """Return the JSON object of one prepared case."""
    case = prepared.case
    known = case.commissures
    return {
        "case": case.key.stem,
        "hemisphere": case.key.hemisphere.value,
        "input": prepared.kind,
        "path": str(path),
        "commissures": None
        if known is None
        else {"source": known.source.value, "detail": known.detail, "ac_mm": known.ac_mm, "pc_mm": known.pc_mm},
        "skeleton_voxels": int(prepared.skeleton.sum()),
        "seconds": prepared.seconds,
        "skipped": prepared.skipped,
    }


def _failure(path: Path, error: PcsError) -> dict[str, str]:
    say(f"Error: {error}")
    return {"input": str(path), "reason": str(error)}


def _count(things: list[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
