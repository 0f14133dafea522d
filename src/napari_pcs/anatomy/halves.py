"""Tell the hemispheres apart in a tissue map of a whole brain, and leave out cerebellum and brainstem.

The map is aligned with the MNI152 template. Where the average of 55 people has cerebrum is cerebrum,
where MNI152 has cerebellum and brainstem is not; what lies between is given to either by a
watershed along the thinnest tissue, which follows the tentorium. The hemispheres part at the plane
that the alignment puts at x = 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from napari_pcs.anatomy.atlas import cerebrum
from napari_pcs.anatomy.extent import bounds, box_around
from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.registration import MIN_CORRELATION, align_brain_to_mni
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.stop import StopToken
    from napari_pcs.volume import Volume

__all__ = ["split"]

_CEREBRUM, _HINDBRAIN = 1, 2
_SURE, _NEVER = 0.5, 0.03
"""Shares of people that have cerebrum at a point."""
_SMOOTHING_MM = 1.0
_MARGIN_VOXELS = 2


def split(tissue: Volume, stop: StopToken) -> dict[Hemisphere, Volume]:
    """Return the cerebral tissue of each hemisphere.

    Parameters
    ----------
    tissue
        Map of a whole brain: 0 outside and fluid, 1 grey, 2 white.
    stop
        Checked between the steps.

    Returns
    -------
    dict
        For each side a map like `tissue`, on its grid, with the rest of the brain set to 0.

    Raises
    ------
    InputError
        If the map does not look like a brain whose hemispheres can be told apart.
    """
    frame = estimate_frame(tissue.data > 0, tissue.spacing, Hemisphere.LEFT)
    first, last = bounds(tissue.data > 0)[0]
    frame = replace(frame, origin=((first + last) / 2, *frame.origin[1:]))
    to_mni, correlation = align_brain_to_mni(tissue, frame, stop)
    if correlation < MIN_CORRELATION:
        raise InputError(
            found=f"a tissue map that agrees with the average brain only to r = {correlation:.2f}",
            expected=f"at least {MIN_CORRELATION}, to tell its hemispheres apart",
            advice="Look at the image: it may be incomplete or not upright. Give each hemisphere's own map.",
            path=tissue.path,
        )
    stop.check()
    box = box_around(tissue.data > 0, _MARGIN_VOXELS)
    mni = _coordinates(box, to_mni @ tissue.affine)
    part = _cerebrum(tissue.data[box] > 0, mni, tissue.spacing)
    halves = {}
    for side, on_side in zip(Hemisphere, (mni[0] < 0, mni[0] >= 0), strict=True):
        stop.check()
        data = np.zeros_like(tissue.data)
        data[box] = np.where(_largest(part & on_side), tissue.data[box], 0)
        halves[side] = replace(tissue, data=data)
    return halves


def _coordinates(box: tuple[slice, ...], voxel_to_mni: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return MNI152 mm (3, x, y, z) of every voxel of a box."""
    index = np.meshgrid(*(np.arange(s.start, s.stop, dtype=np.float32) for s in box), indexing="ij")
    rows = voxel_to_mni.astype(np.float32)
    return np.stack([row[0] * index[0] + row[1] * index[1] + row[2] * index[2] + row[3] for row in rows[:3]])


def _cerebrum(
    solid: NDArray[np.bool_], mni: NDArray[np.float32], spacing: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Return the part of the tissue that is cerebrum."""
    share = _share(mni)
    markers = np.zeros(solid.shape, dtype=np.int8)
    markers[solid & _hindbrain(mni) & (share < _NEVER)] = _HINDBRAIN
    markers[solid & (share > _SURE)] = _CEREBRUM
    density = ndimage.gaussian_filter(solid.astype(np.float32), [_SMOOTHING_MM / s for s in spacing])
    return np.asarray(watershed(-density, markers, mask=solid) == _CEREBRUM)


def _share(mni: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how many of the atlas's people have cerebrum at MNI152 points."""
    left, right = (cerebrum(side) for side in Hemisphere)
    back = np.linalg.inv(left.affine).astype(np.float32)
    index = np.tensordot(back[:3, :3], mni, 1) + back[:3, 3].reshape(3, 1, 1, 1)
    together = left.grey + left.white + right.grey + right.white
    return np.asarray(ndimage.map_coordinates(together, index, order=1, output=np.float32))


def _hindbrain(mni: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the region of MNI152 in which tissue that is not cerebrum is cerebellum or brainstem."""
    x, y, z = mni
    return np.asarray((np.abs(x) < 60) & (y > -100) & (y < -8) & (z < -8))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    components, n = ndimage.label(mask)
    if n == 0:
        return mask
    return np.asarray(components == 1 + np.argmax(np.bincount(components.ravel())[1:]))
