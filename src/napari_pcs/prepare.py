"""From a source to a case in a session, with skeleton, fold pieces and a proposal: once, and all or nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.anatomy.checks import side_name
from napari_pcs.anatomy.extraction import extract_skeleton
from napari_pcs.anatomy.foldgraph import FoldGraph
from napari_pcs.anatomy.length import Measurement, measure_case
from napari_pcs.anatomy.priors import read_priors, shipped_priors
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.proposal import propose_pcs
from napari_pcs.case import Case, LabelRole
from napari_pcs.errors import InputError
from napari_pcs.labels import Label
from napari_pcs.provenance import Provenance
from napari_pcs.session import Session
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_pcs.anatomy.sources.base import Source
    from napari_pcs.bids import CaseKey
    from napari_pcs.case import Case
    from napari_pcs.labels import Hemisphere

__all__ = ["Prepared", "Task", "prepare", "propose", "record_of"]

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
    pieces
        Number of fold pieces.
    measurement
        Of the proposed PCS; None where there is no proposal.
    notes
        What could not be done, and why.
    kind
        Name of the format that it came in.
    seconds
        What it took, since the case before.
    skipped
        It had been prepared before and was only read.
    """

    case: Case
    skeleton: NDArray[np.bool_]
    pieces: int
    measurement: Measurement | None
    kind: str
    seconds: float
    skipped: bool
    notes: tuple[str, ...] = ()


def prepare(
    source: Source,
    session: Session,
    *,
    hemispheres: tuple[Hemisphere, ...] | None = None,
    priors: Path | None = None,
    stop: StopToken,
    force: bool = False,
) -> Iterator[Step | Prepared]:
    """Read a source and store its cases, each with its skeleton, fold pieces and a proposed PCS.

    Parameters
    ----------
    source
        See `napari_pcs.anatomy.sources.find_sources`.
    session
        Where to.
    hemispheres
        Sides to prepare; all that the source holds if None.
    priors
        Folder of frequency maps for the proposal; the shipped ones if None.
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
        case, skeleton, pieces = stored
        yield Prepared(
            case,
            skeleton,
            int(pieces.max(initial=0)),
            _measure(case),
            source.kind,
            time.perf_counter() - begin,
            skipped=True,
        )
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
        folds = FoldGraph.of(event, skeleton)
        stop.check()
        proposed, notes = propose(event, folds, priors)
        stop.check()
        case = session.add_prepared(
            proposed, skeleton, folds.labels, folds.table(), _provenance(event), origin=_origin(source), force=force
        )
        done += 1 / len(missing)
        yield Prepared(
            case,
            skeleton,
            len(folds.graph),
            _measure(case),
            source.kind,
            time.perf_counter() - begin,
            skipped=False,
            notes=notes,
        )
        begin = time.perf_counter()


@dataclass(frozen=True)
class Task:
    """Preparing one source into a session: what is sent to a worker process."""

    source: Source
    session: Path
    priors: Path | None = None
    force: bool = False

    def name(self) -> str:
        """Return what identifies it in a report."""
        scan = f"_ses-{self.source.session}" if self.source.session else ""
        return f"sub-{self.source.subject}{scan} ({self.source.path.name})"

    def is_done(self) -> bool:
        """Say whether the session has every hemisphere of it."""
        session, origin = Session.open(self.session), _origin(self.source)
        return not self.force and all(session.is_prepared(key, origin) for key in self._keys())

    def cases(self) -> list[dict[str, Any]]:
        """Return what is known of its cases without reading them: the beginning of each one's record."""
        path = str(self.source.path)
        return [{"case": key.stem, "hemisphere": key.hemisphere.value, "path": path} for key in self._keys()]

    def _keys(self) -> list[CaseKey]:
        return [self.source.key(side) for side in self.source.choose(None)]

    def events(self, stop: StopToken | None = None) -> Iterator[Step | Prepared]:
        """Prepare it; see `prepare`."""
        session = Session.open(self.session)
        return prepare(self.source, session, priors=self.priors, stop=stop or StopToken(), force=self.force)

    def run(self) -> list[dict[str, Any]]:
        """Prepare it and return the record of each case."""
        return [record_of(e, self.source.path) for e in self.events() if isinstance(e, Prepared)]


def record_of(prepared: Prepared, path: Path) -> dict[str, Any]:
    """Return the JSON object of one prepared case; `proposal` is None where there is none."""
    case, measured = prepared.case, prepared.measurement
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
        "fold_pieces": prepared.pieces,
        "proposal": None
        if measured is None
        else {"length_mm": measured.length_mm, "class": measured.pcs_class, "gaps_mm": measured.gaps_mm},
        "notes": prepared.notes,
        "seconds": prepared.seconds,
        "skipped": prepared.skipped,
    }


def propose(case: Case, folds: FoldGraph, priors: Path | None = None) -> tuple[Case, tuple[str, ...]]:
    """Return the case with its proposed labels; without, and the reason, where there can be none."""
    try:
        maps = read_priors(priors, case.key.hemisphere) if priors else shipped_priors(case.key.hemisphere)
        pcs = propose_pcs(case, folds, maps)
    except InputError as error:
        return case, (f"No proposal: {error}",)
    labels = (folds.labels > 0).astype(np.uint8) * int(Label.SKELETON)
    labels[pcs] = Label.PCS
    provenance = Provenance(
        manual=False,
        hemisphere=case.key.hemisphere.value,
        sources=(maps.source,),
        description="PCS proposed by rule from frequency maps and the order of sheets about the callosum.",
    )
    return case.with_labels(LabelRole.PROPOSED, labels, provenance), ()


def _measure(case: Case) -> Measurement | None:
    proposed = case.labels.get(LabelRole.PROPOSED)
    return None if proposed is None else measure_case(case, proposed.data)


def _overall(read: float, done: float) -> float:
    """Return the share of the time that is over, from the shares of reading and of storing that are."""
    return _READING_SHARE * read + (1 - _READING_SHARE) * done


def _stored(
    session: Session, source: Source, side: Hemisphere
) -> tuple[Case, NDArray[np.bool_], NDArray[np.int32]] | None:
    """Return the case, its skeleton and its pieces if the session has all from this very source."""
    key = source.key(side)
    if not session.is_prepared(key, _origin(source)):
        return None
    skeleton, pieces = session.load_skeleton(key), session.load_pieces(key)
    return None if skeleton is None or pieces is None else (session.load(key), skeleton, pieces)


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
