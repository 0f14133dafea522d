"""Show an opened case, and say what it is, how AC and PC became known and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_pcs.case import Case, LabelRole
from napari_pcs.commissures import FrameSource

if TYPE_CHECKING:
    from napari_pcs.gui.opening import Opened
    from napari_pcs.gui.state import State

__all__ = ["measured", "show_opened"]

_KNOWN = {
    FrameSource.FILE: "AC and PC came with the file",
    FrameSource.REGISTRATION: "AC and PC were found by aligning it with a template",
    FrameSource.CLICKS: "AC and PC were clicked",
    FrameSource.WORLD: "AC and PC follow from the world coordinates",
}


def show_opened(state: State, opened: Opened, seconds: float) -> None:
    """Replace the case on screen and say so; `seconds` is what reading it took."""
    state.timings_s = {"read": seconds}
    state.prediction = None
    state.report = None
    state.pieces = None
    state.case = opened.case
    state.pieces = opened.pieces
    remarks = " ".join(opened.remarks)
    kind = opened.kind[:1].upper() + opened.kind[1:]
    frame = _frame(opened.case)
    state.say(" ".join(s for s in (f"{kind}: {opened.case.key.stem}.", frame, remarks, _next(state)) if s))


def measured(state: State) -> str:
    """Return class and length of the labels as they are now."""
    if state.length_mm is None:
        return "not measured: AC and PC unknown"
    return f"PCS {state.pcs_class}, {state.length_mm:.1f} mm"


def _frame(case: Case) -> str:
    known = case.commissures
    if known is None:
        return "AC and PC are unknown: set them in Load."
    return f"{_KNOWN[known.source]}{f' ({known.detail})' if known.detail else ''}."


def _next(state: State) -> str:
    match state.started_from:
        case LabelRole.PROPOSED:
            return (
                f"The labels are a proposal by rule ({measured(state)}) which nobody has looked at."
                " Next: correct it, or predict."
            )
        case LabelRole.PREDICTED:
            return "The labels are a prediction. Next: correct it."
        case LabelRole.CORRECTED:
            return "The labels are its saved correction. Next: go on, or tune on it."
        case _:
            return "Next: predict."
