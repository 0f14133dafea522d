"""Sample hemispheres that need no download: the MNI152 template's, and three phantoms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from skimage.segmentation import watershed

from napari_pcs.anatomy.extent import box_around
from napari_pcs.anatomy.tissue import GREY, WHITE
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.data.names import PCS_LENGTHS_MM, SAMPLES, phantom_name
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["mni152", "sample"]

_MARGIN_VOXELS = 4
_TISSUE_PROBABILITY = 0.5
_OPEN_SULCI_PROBABILITY = 0.7
"""Averaging over people half fills the sulci of the template; a stricter share of tissue opens them again."""
_CEREBRUM, _HINDBRAIN = 1, 2


def sample(name: str) -> Case:
    """Build a sample hemisphere by name.

    Raises
    ------
    InputError
        If there is no such sample.
    """
    match name:
        case "mni152-left":
            return mni152(Hemisphere.LEFT)
        case "mni152-right":
            return mni152(Hemisphere.RIGHT)
    for length in PCS_LENGTHS_MM:
        if name == phantom_name(length):
            return phantom(pcs_length_mm=length)
    raise InputError(found=f"a sample named {name!r}", expected="one of " + ", ".join(SAMPLES))


def mni152(hemisphere: Hemisphere) -> Case:
    """Cut one hemisphere out of the MNI152 template (ICBM 2009, symmetric).

    Voxels with enough tissue are grey or white by the majority of nilearn's probability maps; the
    cerebellum and the brainstem are separated along the tentorium by a watershed on the absence of
    tissue.

    Returns
    -------
    Case
        On the template's 1 mm grid, cropped; world coordinates are MNI mm. There are no labels:
        nobody has labelled the PCS of the template.
    """
    grey, white, t1 = (
        load(resolution=1) for load in (load_mni152_gm_template, load_mni152_wm_template, load_mni152_template)
    )
    grey_map, white_map = np.asarray(grey.dataobj, dtype=np.float32), np.asarray(white.dataobj, dtype=np.float32)
    x, y, z = _world(grey.affine, grey_map.shape)
    side = np.broadcast_to(x < 0 if hemisphere is Hemisphere.LEFT else x > 0, grey_map.shape)
    tissue = np.where(grey_map + white_map > _OPEN_SULCI_PROBABILITY, np.where(white_map > grey_map, WHITE, GREY), 0)
    tissue[~side | ~_cerebrum(grey_map + white_map, x, y, z)] = 0
    box = box_around(tissue > 0, _MARGIN_VOXELS)
    offset = np.eye(4)
    offset[:3, 3] = [s.start for s in box]
    affine = grey.affine @ offset
    volume = Volume.from_array(np.ascontiguousarray(tissue[box]).astype(np.uint8), affine)
    shown = np.asarray(t1.dataobj, dtype=np.float32)[box]
    image = Volume.from_array(np.where(side[box], shown, 0).astype(np.float32), affine)
    commissures = Commissures.from_mni(np.eye(4), FrameSource.WORLD, "the MNI152 template itself")
    return Case(CaseKey("MNI152", "", hemisphere), volume, image, commissures=commissures)


def _world(affine: NDArray[np.float64], shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Broadcastable world x, y, z of an axis-aligned grid."""
    lines = [affine[i, i] * np.arange(n) + affine[i, 3] for i, n in enumerate(shape)]
    return [line.reshape([-1 if i == axis else 1 for i in range(3)]) for axis, line in enumerate(lines)]


def _cerebrum(tissue: NDArray[np.float32], *world: NDArray[Any]) -> NDArray[np.bool_]:
    """Separate the cerebrum from cerebellum and brainstem, seeded in MNI mm."""
    x, y, z = world
    markers = np.zeros(tissue.shape, dtype=np.int8)
    solid = tissue > _TISSUE_PROBABILITY
    markers[solid & ((z > 5) | (y > -5))] = _CEREBRUM
    markers[solid & (np.abs(x) > 12) & (np.abs(x) < 40) & (y > -38) & (y < -8) & (z > -18)] = _CEREBRUM
    markers[solid & (np.abs(x) < 40) & (y > -80) & (y < -50) & (z < -32)] = _HINDBRAIN
    markers[solid & (np.abs(x) < 12) & (y > -42) & (y < -12) & (z < -16)] = _HINDBRAIN
    return np.asarray(watershed(1 - tissue, markers, mask=solid) == _CEREBRUM)
