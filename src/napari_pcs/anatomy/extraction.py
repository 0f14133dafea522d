"""The skeleton of a case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.skeleton import skeletonize
from napari_pcs.anatomy.tissue import GREY, WHITE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.case import Case

__all__ = ["extract_skeleton"]


def extract_skeleton(case: Case) -> NDArray[np.bool_]:
    """Return the skeleton of a case, from its tissue alone; a mask on the case's grid.

    Raises
    ------
    InputError
        If the tissue is not that of one hemisphere.
    """
    tissue = case.tissue
    frame = estimate_frame(tissue.data > 0, tissue.spacing, case.key.hemisphere)
    return skeletonize(tissue.data == GREY, tissue.data == WHITE, frame)
