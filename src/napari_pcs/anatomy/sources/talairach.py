"""FreeSurfer's `talairach.xfm`: an affine from a scan's world mm to MNI305."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["MNI305_TO_MNI152", "read_talairach", "read_xfm"]

MNI305_TO_MNI152 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""FreeSurfer wiki, CoordinateSystems, case 8b."""
_MATRIX = re.compile(r"Linear_Transform\s*=\s*([^;]+);")


def read_talairach(path: Path) -> Commissures:
    """Return the commissures that a `talairach.xfm` gives; world mm are scanner RAS, as in `orig.mgz`.

    Raises
    ------
    InputError
        If the file is damaged, or the affine is not that of a head.
    """
    to_mni = MNI305_TO_MNI152 @ read_xfm(path)
    try:
        return Commissures.from_mni(to_mni, FrameSource.FILE, path.name)
    except InputError as error:
        raise error.at(path) from None


def read_xfm(path: Path) -> NDArray[np.float64]:
    """Return the affine (4, 4) of a MINC `.xfm` file with one linear transform.

    Raises
    ------
    InputError
        If it has none, or one that cannot be inverted.
    """
    try:
        found = _MATRIX.search(path.read_text(errors="replace"))
        matrix = np.vstack([np.array(found[1].split(), dtype=float).reshape(3, 4), [0, 0, 0, 1]]) if found else None
    except (OSError, ValueError) as error:
        raise InputError(
            found=f"an unreadable transform ({error})", expected="a MINC transform of 3 x 4 numbers", path=path
        ) from error
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-3:
        raise InputError(
            found="no linear transform that can be inverted",
            expected="Linear_Transform = and 3 x 4 numbers",
            advice="Run talairach_avi again, or remove the file: AC and PC are then found by registration.",
            path=path,
        )
    return matrix
