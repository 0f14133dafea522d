"""Commissures that Morphologist wrote beside the T1 (`.APC`).

The file is text, one point a line (brainvisa/morphologist-gpl, its import and normalisation
processes write it so)::

    AC: 90 103 118
    PC: 90 129 119
    IH: 91 110 60
    The previous coordinates, used by the system, are defined in voxels
    They stem from the following coordinates in millimeters:
    ACmm: 90.1 103.2 117.9
    PCmm: 90.0 129.4 118.8
    IHmm: 91.2 110.1 60.4

Voxels count from 0 along the axes that BrainVISA works in: from right to left, front to back and
top to bottom. Its millimetres are these voxels times the voxel size. IH is a point between the
hemispheres above the commissures.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_pcs.volume import Volume

__all__ = ["read_apc"]

_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_LINE = re.compile(rf"^\s*(AC|PC|IH)(mm)?\s*:\s*({_NUMBER})[\s,]+({_NUMBER})[\s,]+({_NUMBER})\s*$", re.MULTILINE)


def read_apc(path: Path, t1: Volume) -> Commissures:
    """Read commissure coordinates.

    Parameters
    ----------
    path
        The `.APC` file.
    t1
        The scan in whose voxels they are given.

    Raises
    ------
    InputError
        If AC or PC is missing, or they cannot be the commissures.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise InputError(
            found=f"an unreadable file ({error.strerror})", expected="commissure coordinates", path=path
        ) from error
    points = _points(text, np.asarray(t1.spacing))
    missing = {"AC", "PC"} - points.keys()
    if missing:
        raise InputError(
            found=f"no {' and no '.join(sorted(missing))}",
            expected="lines such as 'AC: 90 103 118' and 'PC: 90 129 119'",
            advice="Set the commissures in BrainVISA again, or remove the file.",
            path=path,
        )
    last = np.asarray(t1.shape) - 1
    world = {name: np.asarray(t1.affine[:3, :3] @ (last - voxel) + t1.affine[:3, 3]) for name, voxel in points.items()}
    up = world["IH"] - world["AC"] if "IH" in world else t1.affine[:3, 2]
    try:
        return Commissures.from_points(world["AC"], world["PC"], FrameSource.FILE, path.name, superior=up)
    except InputError as error:
        raise error.at(path) from None


def _points(text: str, spacing: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the points in BrainVISA's voxels; millimetres, being finer, come before whole voxels."""
    voxels, exact = {}, {}
    for name, mm, *numbers in _LINE.findall(text):
        point = np.array([float(number) for number in numbers])
        if mm:
            exact[name] = point / spacing
        else:
            voxels[name] = point
    return {**voxels, **exact}
