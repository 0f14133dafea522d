"""Find the commissures of a case: kept if the file knew them, from registration otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.registration import register
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from napari_pcs.case import Case
    from napari_pcs.stop import StopToken

__all__ = ["locate"]


def locate(case: Case, stop: StopToken | None = None) -> tuple[Case, str]:
    """Return the case with its commissures, and a sentence on how they became known.

    A case whose map cannot be aligned is returned without: it can be shown and labelled, but not
    measured until somebody sets AC and PC. The sentence then says why.

    Raises
    ------
    InputError
        If the tissue is not that of one hemisphere.
    CancelledError
        Soon after `stop` is set.
    """
    if case.commissures is not None:
        known = case.commissures
        return case, f"AC and PC from the {known.source.value}{f' ({known.detail})' if known.detail else ''}"
    frame = estimate_frame(case.tissue.data > 0, case.tissue.spacing, case.key.hemisphere)
    try:
        found = register(case.tissue, frame, stop)
    except InputError as error:
        return case, f"AC and PC unknown: {error}"
    return replace(case, commissures=found), f"AC and PC from the registration ({found.detail})"
