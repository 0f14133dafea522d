"""The average cerebrum: how often each voxel of MNI152 is grey or white matter of either hemisphere."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, NamedTuple

import nibabel as nib
import numpy as np

from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cerebrum", "cerebrum"]

_FIRST_CHANNEL = {Hemisphere.LEFT: 0, Hemisphere.RIGHT: 2}


class Cerebrum(NamedTuple):
    """Shares of people, 0 to 1, on a 2 mm grid, axes (x, y, z) in RAS order; `affine` leads to MNI152 mm."""

    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    affine: NDArray[np.float64]


@cache
def cerebrum(hemisphere: Hemisphere) -> Cerebrum:
    """Return the average of one hemisphere, without cerebellum and brainstem.

    Made by `scripts/atlas/build.py` from 55 people of OpenNeuro ds002748 v1.0.5 (CC0;
    Bezmaternykh et al. 2021, doi 10.1155/2021/8846097).
    """
    with as_file(files("napari_pcs.anatomy") / "shipped" / "cerebrum.nii.gz") as path:
        image = nib.load(path)
        percent = np.asarray(image.dataobj)
    first = _FIRST_CHANNEL[hemisphere]
    grey, white = (np.ascontiguousarray(percent[..., first + i], dtype=np.float32) / np.float32(100) for i in range(2))
    return Cerebrum(grey, white, image.affine)
