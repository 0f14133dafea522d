"""From a source to a case in a session, with its skeleton: once, and all or nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_pcs.anatomy.checks import side_name
from napari_pcs.anatomy.extraction import extract_skeleton
from napari_pcs.anatomy.progress import Step
from napari_pcs.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.anatomy.sources.base import Source
    from napari_pcs.case import Case
    from napari_pcs.labels import Hemisphere
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken

__all__ = ["Prepared", "prepare"]

_READING_SHARE = 0.8


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case that the session has in full.

    Attributes
    ----------
    case
        As the session has it.
    skeleton
        Mask on the case's grid, axes (x, y, z) in RAS order.
    kind
        Name of the format that it came in.
    seconds
        What it took, since the case before.
    skipped
        It had been prepared before and was only read.
    """

    case: Case
    skeleton: NDArray[np.bool_]
    kind: str
    seconds: float
    skipped: bool


def prepare(
    source: Source,
    session: Session,
    *,
    hemispheres: tuple[Hemisphere, ...] | None = None,
    stop: StopToken,
    force: bool = False,
) -> Iterator[Step | Prepared]:
    """Read a source and store its cases, each with its skeleton.

    Parameters
    ----------
    source
        See `napari_pcs.anatomy.sources.find_sources`.
    session
        Where to.
    hemispheres
        Sides to prepare; all that the source holds if None.
    stop
        Checked between steps. A case is written in one go when it is complete.
    force
        Prepare again what the session has already from this source.

    Yields
    ------
    Step or Prepared
        Steps, and one `Prepared` per hemisphere.

    Raises
    ------
    InputError
        If the source is damaged or not what it is said to be.
    SessionError
        If the session has another scan under the same name, or the disk refuses.
    CancelledError
        If stopping was asked for.
    """
    begin = time.perf_counter()
    missing = []
    for side in source.choose(hemispheres):
        stop.check()
        stored = None if force else _stored(session, source, side)
        if stored is None:
            missing.append(side)
            continue
        case, skeleton = stored
        yield Prepared(case, skeleton, source.kind, time.perf_counter() - begin, skipped=True)
        begin = time.perf_counter()
    read = done = 0.0
    for event in source.read(tuple(missing), stop) if missing else ():
        if isinstance(event, Step):
            read = event.fraction
            yield Step(event.sentence, _overall(read, done))
            continue
        yield Step(f"Extracting the skeleton of the {side_name(event.key.hemisphere)} hemisphere", _overall(read, done))
        stop.check()
        skeleton = extract_skeleton(event)
        stop.check()
        case = session.add_prepared(event, skeleton, _provenance(event), origin=_origin(source), force=force)
        done += 1 / len(missing)
        yield Prepared(case, skeleton, source.kind, time.perf_counter() - begin, skipped=False)
        begin = time.perf_counter()


def _overall(read: float, done: float) -> float:
    """Return the share of the time that is over, from the shares of reading and of storing that are."""
    return _READING_SHARE * read + (1 - _READING_SHARE) * done


def _stored(session: Session, source: Source, side: Hemisphere) -> tuple[Case, NDArray[np.bool_]] | None:
    """Return the case and its skeleton if the session has both from this very source."""
    key = source.key(side)
    if session.origin(key) != _origin(source):
        return None
    skeleton = session.load_skeleton(key)
    return None if skeleton is None else (session.load(key), skeleton)


def _origin(source: Source) -> str:
    return str(source.path.resolve())


def _provenance(case: Case) -> Provenance:
    sources = (str(case.tissue.path),) if case.tissue.path else ()
    return Provenance(
        manual=False,
        hemisphere=case.key.hemisphere.value,
        sources=sources,
        description="Medial surface of the sulcal space, extracted from the grey/white map.",
    )
