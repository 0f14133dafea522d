"""Open whatever a path holds: recognise it, prepare it into the session if there is one, choose what to show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_pcs.anatomy.progress import Step
from napari_pcs.errors import CancelledError, InputError, PcsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.anatomy.sources import Source
    from napari_pcs.bids import CaseKey
    from napari_pcs.case import Case
    from napari_pcs.labels import Hemisphere
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken

__all__ = ["Opened", "Wanted", "open_stored", "open_wanted"]


@dataclass(frozen=True)
class Wanted:
    """What the user asks to open; `image` and `reference` belong to a single tissue map."""

    path: Path
    hemisphere: Hemisphere | None = None
    image: Path | None = None
    reference: Path | None = None


@dataclass(frozen=True, eq=False)
class Opened:
    """A case to show.

    Attributes
    ----------
    kind
        Name of the format that it came in.
    pieces
        Ids of its fold pieces on its grid, where the session has them.
    remarks
        Sentences on what else was found, prepared or impossible.
    """

    case: Case
    kind: str
    pieces: NDArray[np.int32] | None = None
    remarks: tuple[str, ...] = ()


def open_wanted(wanted: Wanted, session: Session | None, stop: StopToken) -> Iterator[Step | Opened]:
    """Yield steps, and at last the case to show.

    A single tissue map is read and no more. Everything else is prepared into the session, all
    scans and sides that it holds, and the first is shown; without a session one side is read.

    Raises
    ------
    PcsError
        If it is nothing that is understood, does not go with the other files, or holds many scans and
        there is no session to prepare them into.
    CancelledError
        If stopping was asked for; cases that were complete by then stay in the session.
    """
    from napari_pcs.anatomy.sources import find_sources

    yield Step(f"Looking at {wanted.path.name}", 0.0)
    sources = find_sources(wanted.path, wanted.hemisphere)
    stop.check()
    if len(sources) == 1 and _is_one_map(sources[0]):
        yield _read_map(wanted, sources[0])
        return
    if wanted.image is not None or wanted.reference is not None:
        raise InputError(
            found=f"an image or a reference beside a {sources[0].kind}",
            expected="them with a single grey/white map only",
            advice="Empty both fields: a subject's folder or a scan brings its own image.",
            path=wanted.path,
        )
    if session is not None:
        yield from _prepare(sources, session, stop)
    elif len(sources) == 1:
        yield from _read_one_side(sources[0], stop)
    else:
        msg = (
            f"Found {len(sources)} scans in {wanted.path.name}: choose a session folder first, so that they can be"
            " prepared into it."
        )
        raise PcsError(msg)


def open_stored(session: Session, key: CaseKey) -> Opened:
    """Read a case of the session with its fold pieces."""
    return Opened(session.load(key), "Case of this session", session.load_pieces(key))


def _is_one_map(source: Source) -> bool:
    """Say whether it is a file of one hemisphere's tissue, which needs no preparation."""
    from napari_pcs.anatomy.sources.tissue_map import TissueMap

    return isinstance(source, TissueMap) and not source.whole and len(source.hemispheres) == 1


def _read_map(wanted: Wanted, source: Source) -> Opened:
    from napari_pcs.anatomy.importers import read_case

    case, kind = read_case(
        wanted.path, hemisphere=source.hemispheres[0], image=wanted.image, reference=wanted.reference
    )
    return Opened(case, kind)


def _read_one_side(source: Source, stop: StopToken) -> Iterator[Step | Opened]:
    from napari_pcs.anatomy.checks import side_name

    side, *others = source.choose(None)
    remarks = tuple(f"To open the {side_name(other)} one, choose it beside Hemisphere." for other in others)
    for event in source.read((side,), stop):
        yield event if isinstance(event, Step) else Opened(event, source.kind, remarks=remarks)


def _prepare(sources: tuple[Source, ...], session: Session, stop: StopToken) -> Iterator[Step | Opened]:
    """Prepare every source; one that fails is remarked upon and stops none of the others."""
    from napari_pcs.prepare import Prepared, Task

    stored: list[CaseKey] = []
    notes: dict[CaseKey, tuple[str, ...]] = {}
    failed: list[PcsError] = []
    for n, source in enumerate(sources):
        which = f"{n + 1} of {len(sources)}, {source.subject}: " if len(sources) > 1 else ""
        task = Task(source, session.root)
        stop.check()
        try:
            # Preparing would read all of it again to say what is there.
            for event in () if task.is_done() else task.events(stop):
                if isinstance(event, Prepared):
                    notes[event.case.key] = event.notes
                else:
                    yield Step(which + event.sentence, (n + event.fraction) / len(sources))
            stored += [source.key(side) for side in source.choose(None)]
        except CancelledError:
            raise
        except PcsError as error:
            failed.append(error)
    if not stored:
        raise failed[0]
    first = min(stored)
    yield Step(f"Reading {first.stem}", 1.0)
    opened = open_stored(session, first)
    kind = next(source.kind for source in sources if first in map(source.key, source.choose(None)))
    yield replace(opened, kind=kind, remarks=notes.get(first, ()) + _remarks(len(stored), len(sources), failed))


def _remarks(hemispheres: int, scans: int, failed: list[PcsError]) -> tuple[str, ...]:
    remarks = []
    if scans > 1:
        remarks.append(f"{hemispheres} hemispheres of {scans - len(failed)} scans are in the session.")
    elif hemispheres > 1:
        remarks.append("Both hemispheres are in the session.")
    if failed:
        remarks.append(f"{len(failed)} failed, the first: {failed[0]}")
    return tuple(remarks)
