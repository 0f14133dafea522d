"""Propose by rule: skeleton, fold pieces and a PCS for the open case, without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from napari_pcs.anatomy.progress import Step
from napari_pcs.case import Case, LabelRole
from napari_pcs.errors import FrameUnknownError, PcsError
from napari_pcs.gui.running import start_job
from napari_pcs.gui.showing import measured

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.gui.layers import LayerSync
    from napari_pcs.gui.state import State
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken

__all__ = ["propose_by_rule"]


class _Proposed(NamedTuple):
    case: Case
    pieces: NDArray[np.int32]


def propose_by_rule(state: State, sync: LayerSync) -> None:
    """Compute the proposal for the open case and let the editable labels begin as it."""
    case, pieces, session = state.case, state.pieces, state.session
    if case is None:
        state.say("There is no hemisphere to propose a PCS for. Open one first.", error=True)
        return
    if refusal := _refusal(state):
        state.say(refusal, error=True)
        return

    def work(stop: StopToken) -> Iterator[Any]:
        if case.commissures is None:
            raise FrameUnknownError
        yield from _propose(case, pieces, session, stop)

    def show(found: _Proposed) -> None:
        if state.case is not case:
            return
        if refusal := _refusal(state):
            state.say(refusal, error=True)
            return
        # The same case on screen: its layers are not drawn anew, and the undo history stays.
        with state.events.case.blocked():
            state.case = found.case
        if state.pieces is None:
            state.pieces = found.pieces
        sync.start_from(LabelRole.PROPOSED)
        state.say(f"Proposed by rule: {measured(state)}. Nobody has looked at it. Next: correct it, then save.")

    start_job(state, f"Proposing a PCS for {case.key.stem}", work, show)


def _refusal(state: State) -> str:
    """Say why the labels must stay as they are; empty if they need not."""
    if state.dirty:
        return "The labels have changes that are not saved. Save or undo them before a proposal replaces them."
    if state.started_from is LabelRole.CORRECTED or (state.case and LabelRole.CORRECTED in state.case.labels):
        return "The labels are a saved correction, which a proposal does not replace."
    return ""


def _propose(
    case: Case, pieces: NDArray[np.int32] | None, session: Session | None, stop: StopToken
) -> Iterator[Step | _Proposed]:
    from napari_pcs.anatomy.extraction import extract_skeleton
    from napari_pcs.anatomy.foldgraph import FoldGraph
    from napari_pcs.anatomy.hull import depth_below_hull
    from napari_pcs.prepare import propose

    if pieces is None:
        yield Step("Extracting the skeleton", 0.0)
        skeleton = extract_skeleton(case)
        stop.check()
        yield Step("Cutting it into fold pieces", 0.5)
        folds = FoldGraph.of(case, skeleton)
    else:
        yield Step("Describing the fold pieces", 0.0)
        depth = depth_below_hull(case.tissue.data > 0, case.tissue.spacing)
        folds = FoldGraph.from_labels(pieces, case.tissue.affine, depth)
    stop.check()
    yield Step("Looking for a fold outside the cingulate sulcus", 0.8)
    proposed, notes = propose(case, folds)
    if LabelRole.PROPOSED not in proposed.labels or notes:
        raise PcsError(" ".join(notes))
    stop.check()
    if session is not None:
        session.add(case)
        session.write_labels(proposed, LabelRole.PROPOSED)
    yield _Proposed(proposed, folds.labels)
