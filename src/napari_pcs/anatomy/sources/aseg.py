"""Grey and white matter of each hemisphere from FreeSurfer's `aseg`.

A ribbon counts what lies inside the white surface as white: the deep nuclei and the ventricles too.
Which labels those are was read off a subject that has both files: at least 89 % of each label
given as white here is white in its ribbon; hippocampus and amygdala are in neither tissue there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.extent import box_around
from napari_pcs.anatomy.tissue import GREY, WHITE
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.volume import Volume

__all__ = ["tissue_of_aseg"]

_CORTEX = {Hemisphere.LEFT: 3, Hemisphere.RIGHT: 42}
_WHITE = {Hemisphere.LEFT: 2, Hemisphere.RIGHT: 41}
_INSIDE = {
    Hemisphere.LEFT: (2, 4, 10, 11, 12, 13, 26, 28, 30, 31),
    Hemisphere.RIGHT: (41, 43, 49, 50, 51, 52, 58, 60, 62, 63),
}
"""White matter, lateral ventricle, thalamus, caudate, putamen, pallidum, accumbens, ventral diencephalon, vessel,
choroid plexus."""
_UNSIDED = (77, 251, 252, 253, 254, 255)
"""White matter hypointensities and the corpus callosum: each voxel goes to the side that is nearer."""


def tissue_of_aseg(volume: Volume) -> dict[Hemisphere, NDArray[np.uint8]]:
    """Return the tissue map of each hemisphere: 0 outside, 1 grey, 2 white; axes as in `volume`.

    Raises
    ------
    InputError
        If cortex or white matter of a side is missing.
    """
    present = set(np.unique(volume.data).tolist())
    missing = {_CORTEX[s] for s in Hemisphere} | {_WHITE[s] for s in Hemisphere}
    missing -= present
    if missing:
        raise InputError(
            found="no label " + ", ".join(str(v) for v in sorted(missing)),
            expected="an aseg with white matter (2, 41) and cortex (3, 42) of both hemispheres",
            advice="Run the segmentation again.",
            path=volume.path,
        )
    tissue = {}
    for side in Hemisphere:
        data = np.zeros(volume.shape, dtype=np.uint8)
        data[np.isin(volume.data, _INSIDE[side])] = WHITE
        data[volume.data == _CORTEX[side]] = GREY
        tissue[side] = data
    _share_out(np.isin(volume.data, _UNSIDED), tissue)
    return tissue


def _share_out(unsided: NDArray[np.bool_], tissue: dict[Hemisphere, NDArray[np.uint8]]) -> None:
    """Give each voxel of the midline to the hemisphere whose tissue is nearest."""
    if not unsided.any():
        return
    box = box_around(unsided, 4)
    left, right = (ndimage.distance_transform_edt(tissue[side][box] == 0) for side in Hemisphere)
    nearer = {Hemisphere.LEFT: left <= right, Hemisphere.RIGHT: left > right}
    for side in Hemisphere:
        tissue[side][box][unsided[box] & nearer[side]] = WHITE
