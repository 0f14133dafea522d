"""What a session holds, listed off the GUI thread: a folder of a thousand cases takes a while to look through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_pcs.bids import case_file
from napari_pcs.case import LabelRole
from napari_pcs.gui.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.bids import CaseKey
    from napari_pcs.gui.state import State
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken

__all__ = ["Listing", "keep_listed", "list_again"]


@dataclass(frozen=True)
class Listing:
    """Cases of a session, in order, and which of them have a correction."""

    keys: tuple[CaseKey, ...] = ()
    corrected: frozenset[CaseKey] = frozenset()

    def after(self, key: CaseKey | None, count: int) -> list[CaseKey]:
        """Return the cases that come next: those after this one, then from the beginning; uncorrected ones first."""
        start = self.keys.index(key) + 1 if key in self.keys else 0
        others = [k for k in (*self.keys[start:], *self.keys[:start]) if k != key]
        return sorted(others, key=lambda k: k in self.corrected)[:count]


def keep_listed(state: State) -> None:
    """List the session of a state whenever it changes, and the open case whenever a job is over."""
    state.events.session.connect(lambda _session: list_again(state))
    state.events.job.connect(lambda job: _look_at_open_case(state) if job is None else None)


def list_again(state: State) -> None:
    """Look through the session, in a thread; what is known stays until then."""
    session = state.session
    if session is None:
        state.listing = Listing()
        return

    def work(_stop: StopToken) -> Iterator[Any]:
        yield _list(session)

    def show(listing: Listing) -> None:
        if state.session is session:
            state.listing = listing

    job = Job(f"Listing {session.root.name}", work)
    job.done.connect(show)
    job.failed.connect(lambda sentence: state.say(sentence, error=True))
    job.start()


def _list(session: Session) -> Listing:
    keys = session.keys()
    return Listing(tuple(keys), frozenset(key for key in keys if _is_corrected(session, key)))


def _is_corrected(session: Session, key: CaseKey) -> bool:
    return (session.root / case_file(key, LabelRole.CORRECTED.value, "dseg", segmentation=True)).exists()


def _look_at_open_case(state: State) -> None:
    """Take into account what a job may have written: looking through all of the session costs more with its size."""
    session, case = state.session, state.case
    if session is None or case is None:
        return
    key, known = case.key, state.listing
    if key not in known.keys and (session.root / case_file(key, "gw", "dseg")).exists():
        known = replace(known, keys=tuple(sorted((*known.keys, key))))
    if key not in known.corrected and key in known.keys and _is_corrected(session, key):
        known = replace(known, corrected=known.corrected | {key})
    if known is not state.listing:
        state.listing = known
