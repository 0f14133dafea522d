"""Morphologist's own skeletons (`Lskeleton_*`): recognise them, and take them as a skeleton mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.case import MORPHOLOGIST_SKELETON, is_morphologist_skeleton
from napari_pcs.errors import InputError
from napari_pcs.labels import Label
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_skeleton"]


def read_skeleton(path: Path) -> tuple[Volume, NDArray[np.uint8]]:
    """Read a skeleton of Morphologist.

    Its values are topological classes: 0 is inside the hemisphere and 11 outside, neither is
    skeleton; 10, 30 (bottom), 35, 40, 50, 60 (simple surface), 70, 80 (junction), 100, 110 and 120
    are.

    Returns
    -------
    tuple
        The volume as it is, and a label map on its grid: 1 on the skeleton, 0 elsewhere.

    Raises
    ------
    InputError
        If it has other values.
    """
    volume = Volume.read(path)
    values = np.unique(volume.data)
    if not is_morphologist_skeleton(values):
        shown = ", ".join(f"{v:g}" for v in values[:8]) + (", ..." if len(values) > 8 else "")
        raise InputError(
            found=f"values {shown}",
            expected="a skeleton by Morphologist: 0 and 11, and classes among "
            + ", ".join(str(v) for v in sorted(MORPHOLOGIST_SKELETON)),
            path=path,
        )
    return volume, _mask(volume.data)


def _mask(data: NDArray[Any]) -> NDArray[np.uint8]:
    return np.isin(data, list(MORPHOLOGIST_SKELETON)).astype(np.uint8) * np.uint8(Label.SKELETON)
