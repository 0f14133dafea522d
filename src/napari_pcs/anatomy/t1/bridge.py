"""The only door to ANTs: it is an extra, and its images are made of ours here."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ants_module", "require_ants", "to_ants"]


def require_ants() -> None:
    """Require that ANTs is installed, without loading it.

    Raises
    ------
    InputError
        If it is not.
    """
    if find_spec("ants") is None:
        raise InputError(
            found="a raw T1 scan, but no ANTs to segment it with",
            expected="the extra t1",
            advice='Install it with: pip install "napari-pcs[t1]". A scan that FreeSurfer or FastSurfer has already '
            "segmented needs no ANTs: open its subject folder.",
        )


def ants_module() -> Any:
    """Return ANTs, loaded when it is first needed: that takes seconds.

    Raises
    ------
    InputError
        If it is not installed.
    """
    require_ants()
    return import_module("ants")


def to_ants(data: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """Wrap an array (x, y, z) as an ANTs image whose physical points are our world mm.

    ITK calls its axes left and posterior; since every image that we hand over is built alike, and
    points go in and come out alike, no change of axes is needed.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return ants_module().from_numpy(
        np.ascontiguousarray(data, dtype=np.float32),
        origin=affine[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=affine[:3, :3] / spacing,
    )
