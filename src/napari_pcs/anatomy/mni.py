"""MNI152 coordinates of a case's voxels, as well as its commissures allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.commissures import AC_MNI, PC_MNI
from napari_pcs.errors import FrameUnknownError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.case import Case

__all__ = ["TEMPLATE_LENGTH_MM", "to_mni"]

TEMPLATE_LENGTH_MM = 176.0
"""Antero-posterior length of the average hemisphere in MNI152, which is larger than most people's."""


def to_mni(case: Case) -> NDArray[np.float64]:
    """Return the affine (4, 4) from a case's voxel indices to MNI152 mm.

    It is the registration's where there was one. Otherwise AC, PC and midline are brought upon
    those of the template and the hemisphere is scaled to the template's length, which is right to
    some 5 mm at the cortex.

    Raises
    ------
    FrameUnknownError
        If nobody knows the commissures.
    """
    known = case.commissures
    if known is None:
        raise FrameUnknownError
    if known.to_mni is not None:
        return np.asarray(np.asarray(known.to_mni) @ case.tissue.affine)
    frame = estimate_frame(case.tissue.data > 0, case.tissue.spacing, case.key.hemisphere)
    scale = TEMPLATE_LENGTH_MM / frame.length_mm
    forward = np.subtract(AC_MNI, PC_MNI) / np.linalg.norm(np.subtract(AC_MNI, PC_MNI))
    right = np.array([1.0, 0.0, 0.0])
    template = np.stack([right, forward, np.cross(right, forward)])
    world = np.eye(4)
    world[:3, :3] = scale * template.T @ known.axes
    world[:3, 3] = np.asarray(AC_MNI) - world[:3, :3] @ np.asarray(known.ac_mm)
    return np.asarray(world @ case.tissue.affine)
