"""Save what the annotator has made: the correction into the session, the report as a table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from napari_pcs.bids import case_file
from napari_pcs.case import Case, LabelRole
from napari_pcs.errors import PcsError
from napari_pcs.files import write_text
from napari_pcs.gui.running import start_job
from napari_pcs.looked import Looked
from napari_pcs.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_pcs.gui.layers import LayerSync
    from napari_pcs.gui.state import State
    from napari_pcs.stop import StopToken

__all__ = ["save_correction", "save_table"]


def save_correction(state: State, sync: LayerSync, editor: str) -> None:
    """Write the editable labels, as they are now, into the session as a correction with provenance."""
    labels, before, session = sync.labels, sync.saved, state.session
    if state.case is None or labels is None or before is None:
        state.say("There are no labels to save. Predict first.", error=True)
        return
    if not editor.strip():
        state.say("Found no editor's name, expected yours: it is written beside the correction.", error=True)
        return
    if session is None:
        state.say("Found no session to save into. Choose a session folder first.", error=True)
        return
    if state.learns_from(state.case):
        state.say(
            f"Found {state.case.key.stem} among the corrections that are being learnt from, which must stay as they"
            " are. Save when the tuning is over, or cancel that.",
            error=True,
        )
        return
    if state.partly_done and state.looked == Looked():
        state.say(
            "Found no slice that was looked at, expected some of a case that is partly done: it would be learnt from"
            " nowhere. Look through it in 2-D, or untick Partly done.",
            error=True,
        )
        return
    case = state.case if state.prediction is None else state.prediction.add_to(state.case)
    seconds, sitting, moment = state.edit_seconds, state.sitting_seconds, time.monotonic()
    provenance = _provenance(case, state.started_from, editor.strip(), seconds)
    seen = {"partly_done": state.partly_done, "looked_at": state.looked}
    corrected = case.with_labels(LabelRole.CORRECTED, labels, provenance.model_copy(update=seen))

    def work(_stop: StopToken) -> Iterator[Any]:
        session.add(case)
        if case.commissures is not None:
            session.write_commissures(case)
        yield session.write_correction(corrected, before, sitting)

    def show(path: Path) -> None:
        state.begin_sitting(seconds, since=moment)
        # The case is the same on screen: only its record changes, so its layers are not drawn anew.
        with state.events.case.blocked():
            state.case = corrected
        sync.mark_saved(labels)
        state.corrections += 1
        more = " What you changed meanwhile is not saved yet." if state.dirty else ""
        state.say(f"Saved {path.name}.{more or ' Next: tune on it, or open the next case.'}")

    # Not to be abandoned: whether the correction is on the disk must be known.
    start_job(state, f"Saving {case.key.stem}", work, show, may_be_abandoned=False)


def _provenance(case: Case, began: LabelRole | None, editor: str, seconds: float) -> Provenance:
    """Return what the correction is based on: the labels that it began as, and their model if they have one."""
    start = None if began is None else case.labels.get(began)
    if began is LabelRole.CORRECTED and start is not None:
        # It goes on with a correction: what that was based on still holds.
        sources = start.provenance.sources
    elif began is not None and start is not None:
        source = case_file(case.key, began.value, "dseg", segmentation=True)
        sources = (f"bids::{source.as_posix()}",)
    else:
        sources = ()
    return Provenance(
        manual=True,
        hemisphere=case.key.hemisphere.value,
        sources=sources,
        editor=editor,
        edit_seconds=round(seconds, 1),
        model=start.provenance.model if start else None,
    )


def save_table(state: State, path: Path) -> None:
    """Write the report as TSV."""
    from napari_pcs.metrics.report import table

    if state.report is None:
        state.say("There is no report to save. Make one first.", error=True)
        return
    try:
        write_text(path, table([state.report]))
    except PcsError as error:
        state.say(str(error), error=True)
    else:
        state.say(f"Saved {path.name}.")
