"""Part the tissue of a brain into left and right cerebrum; the cerebellum and the brainstem fall away."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from napari_pcs.anatomy.atlas import cerebrum
from napari_pcs.anatomy.t1.tissue import GREY_CLASS, WHITE_CLASS
from napari_pcs.anatomy.tissue import GREY, WHITE
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Shares", "average_maps", "check_hemispheres", "part", "shares_of"]

_SIDES = {Hemisphere.LEFT: 1, Hemisphere.RIGHT: 2}
_HINDBRAIN = 3
_SURE = 0.85
"""A voxel is a seed where this share of the people who have tissue there agree on what it belongs to."""
_SEED_TISSUE = 0.3
_TISSUE = 0.05
"""Below this share of people nothing but fluid, vessels and membranes is there."""
_SPECK_MM3 = 200.0
_MIN_RATIO = 0.6
_MAX_BRIDGED = 0.75


class Shares(NamedTuple):
    """How often a voxel is tissue of the left, the right cerebrum or the hindbrain; 0 to 1, on the scan's grid."""

    left: NDArray[np.float32]
    right: NDArray[np.float32]
    hindbrain: NDArray[np.float32]


def average_maps() -> dict[str, tuple[NDArray[np.float32], NDArray[np.float64]]]:
    """Return what must be warped onto a scan for `shares_of`: maps in MNI152 with their affines."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    grey, white = load_mni152_gm_template(resolution=2), load_mni152_wm_template(resolution=2)
    tissue = np.asarray(grey.dataobj, dtype=np.float32) + np.asarray(white.dataobj, dtype=np.float32)
    maps = {"tissue": (np.minimum(tissue, 1), np.asarray(grey.affine))}
    for hemisphere in Hemisphere:
        average = cerebrum(hemisphere)
        maps[hemisphere.name] = (average.grey + average.white, average.affine)
    return maps


def shares_of(warped: dict[str, NDArray[np.float32]]) -> Shares:
    """Return the shares of the three parts: the hindbrain is what the cerebra leave of all tissue."""
    left, right = warped[Hemisphere.LEFT.name], warped[Hemisphere.RIGHT.name]
    return Shares(left, right, np.clip(warped["tissue"] - left - right, 0, 1))


def part(
    classes: NDArray[np.uint8], brain: NDArray[np.float32], shares: Shares, spacing: tuple[float, float, float]
) -> dict[Hemisphere, NDArray[np.uint8]]:
    """Return 0 outside and fluid, 1 grey and 2 white matter of either cerebrum.

    Seeds come from the shares of other people; from there each part grows through bright tissue
    first, so that parts meet where the scan is dark: in the fissure and at the tentorium.

    Parameters
    ----------
    classes
        0 outside, 1 fluid, 2 grey, 3 white matter; axes (x, y, z).
    brain
        Bias-corrected brain on the same grid.
    shares
        On the same grid.
    spacing
        Voxel size in mm.
    """
    tissue = classes >= GREY_CLASS
    stack = np.stack(shares)
    total = stack.sum(axis=0)
    seeds = np.zeros(classes.shape, dtype=np.int8)
    for i, share in enumerate(stack, start=1):
        seeds[tissue & (share > _SURE * total) & (share > _SEED_TISSUE)] = i
    tissue &= (total > _TISSUE) | (seeds > 0)
    white = float(np.median(brain[classes == WHITE_CLASS]))
    parts = watershed(1 - np.clip(brain / white, 0, 1) - _likeliest(stack, total), seeds, mask=tissue)
    result = {}
    for hemisphere, value in _SIDES.items():
        kept = _without_specks(parts == value, _SPECK_MM3 / float(np.prod(spacing)))
        maps = np.zeros(classes.shape, dtype=np.uint8)
        maps[kept & (classes == GREY_CLASS)] = GREY
        maps[kept & (classes == WHITE_CLASS)] = WHITE
        result[hemisphere] = maps
    return result


def check_hemispheres(
    tissue: dict[Hemisphere, NDArray[np.uint8]], to_mni: NDArray[np.float64], affine: NDArray[np.float64]
) -> None:
    """Require two hemispheres of like size with a fissure between them.

    Raises
    ------
    InputError
        If they cannot be told apart.
    """
    voxels = {h: int(np.count_nonzero(t)) for h, t in tissue.items()}
    smaller, larger = sorted(voxels, key=lambda h: voxels[h])
    advice = (
        "Look at the scan: one side may be cut off, missing or destroyed, or the header's axes may be wrong. "
        "A grey/white map of each hemisphere can be opened instead."
    )
    if voxels[smaller] < _MIN_RATIO * voxels[larger]:
        raise InputError(
            found=f"a {smaller.name.lower()} hemisphere with {voxels[smaller] / max(voxels[larger], 1):.0%} "
            f"of the {larger.name.lower()} one's tissue",
            expected=f"at least {_MIN_RATIO:.0%}: two hemispheres that can be told apart",
            advice=advice,
        )
    bridged = _bridged(tissue, to_mni @ affine)
    if bridged > _MAX_BRIDGED:
        raise InputError(
            found=f"tissue in {bridged:.0%} of the midline above the corpus callosum",
            expected=f"a dark fissure there, tissue in at most {_MAX_BRIDGED:.0%}: hemispheres that can be told apart",
            advice=advice,
        )


def _likeliest(stack: NDArray[np.float32], total: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much the likeliest part leads, 0 to 1: low where parts border each other."""
    return np.asarray(stack.max(axis=0) / np.maximum(total, 1e-3))


def _without_specks(mask: NDArray[np.bool_], voxels: float) -> NDArray[np.bool_]:
    components, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= voxels)[components])


def _bridged(tissue: dict[Hemisphere, NDArray[np.uint8]], to_mni: NDArray[np.float64]) -> float:
    """Return how much of the midline above the corpus callosum is tissue from side to side.

    Over 4 mm, because the midline of a brain is not a plane. `to_mni` leads from voxels to MNI mm.
    """
    y, z = np.meshgrid(np.arange(-50.0, 51.0, 2.0), np.arange(36.0, 61.0, 2.0), indexing="ij")
    both = np.maximum(*tissue.values()) > 0
    back = np.linalg.inv(to_mni)
    planes = []
    for x in (-2.0, -1.0, 0.0, 1.0, 2.0):
        points = np.stack([np.full(y.size, x), y.ravel(), z.ravel()])
        planes.append(ndimage.map_coordinates(both, back[:3, :3] @ points + back[:3, 3:], order=0) > 0)
    return float(np.min(np.stack(planes), axis=0).mean())
