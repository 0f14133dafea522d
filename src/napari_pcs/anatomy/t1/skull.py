"""Find out whether a scan still has its skull, and take it off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.extent import box_around
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.anatomy.t1.alignment import Template

__all__ = ["brain_mask", "has_skull"]

MAX_BRAIN_LITRES = 2.1
"""The largest brains with their fluid; a head has 3 litres and more."""
_REGION_MM = 6.0
"""How far a brain may lie outside the affinely aligned template's."""
_OPENING_MM = 2.5
_CLOSING_MM = 6.0
_CORE_MM = 8.0
_FLUID_SHARE = 0.5
"""Of white matter's brightness: darker is fluid, bone or membrane."""
_GLARE = 1.35
"""Of white matter's brightness: brighter is fat or marrow."""


def has_skull(content: NDArray[np.bool_], spacing: tuple[float, float, float]) -> bool:
    """Say whether what is brighter than air, with its holes, is larger than any brain.

    Parameters
    ----------
    content
        Voxels brighter than air and noise.
    spacing
        Voxel size in mm.
    """
    filled = _filled(content)
    return float(np.count_nonzero(filled) * np.prod(spacing) / 1e6) > MAX_BRAIN_LITRES


def brain_mask(
    head: NDArray[np.float32], affine: NDArray[np.float64], to_mni: NDArray[np.float64], template: Template
) -> NDArray[np.bool_]:
    """Return the brain with the fluid in its folds.

    In the neighbourhood of the aligned template's brain, the largest piece that is as bright as
    tissue and more than a membrane thick, closed over the sulci.

    Raises
    ------
    InputError
        If nothing there holds together.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    far = _distance_to_brain(template, to_mni @ affine, head.shape)
    if not (far < _REGION_MM).any():
        raise _no_brain()
    box = box_around(far < _REGION_MM, round(2 * _CLOSING_MM / float(spacing.min())))
    mask = np.zeros(head.shape, dtype=bool)
    mask[box] = _brain_in(head[box], far[box], spacing)
    return mask


def _brain_in(head: NDArray[np.float32], far: NDArray[np.float32], spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    white = float(np.percentile(head[far < -_CORE_MM], 75))
    tissue = (far < _REGION_MM) & (head > _FLUID_SHARE * white) & (head < _GLARE * white)
    components, n = ndimage.label(ndimage.distance_transform_edt(tissue, spacing) > _OPENING_MM)
    if n == 0:
        raise _no_brain()
    largest = components == 1 + np.argmax(np.bincount(components.ravel())[1:])
    grown = tissue & (ndimage.distance_transform_edt(~largest, spacing) < _OPENING_MM + 0.8)
    closed = ndimage.distance_transform_edt(~grown, spacing) < _CLOSING_MM
    closed = ndimage.distance_transform_edt(closed, spacing) > _CLOSING_MM - 0.5
    return _filled(closed | grown)


def _no_brain() -> InputError:
    return InputError(
        found="a head in which no brain could be found",
        expected="a T1-weighted scan of a whole brain",
        advice="Take the skull off first (FreeSurfer, SynthStrip or HD-BET do it) and open the brain.",
    )


def _distance_to_brain(
    template: Template, to_template_mm: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return mm outside (positive) and inside the template's brain, on the scan's grid."""
    spacing = _spacing_of(template)
    brain = template.data > 0
    signed = ndimage.distance_transform_edt(~brain, spacing) - ndimage.distance_transform_edt(brain, spacing)
    back = np.linalg.inv(template.affine) @ to_template_mm
    return np.asarray(
        ndimage.affine_transform(
            signed.astype(np.float32), back[:3, :3], back[:3, 3], output_shape=shape, order=1, cval=99
        )
    )


def _spacing_of(template: Template) -> NDArray[np.float64]:
    """Return the template's voxel size in mm."""
    return np.asarray(np.linalg.norm(template.affine[:3, :3], axis=0))


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill holes in the volume and in every slice of it: noses and ears are open to the side."""
    filled = ndimage.binary_fill_holes(mask)
    for k in range(filled.shape[2]):
        filled[:, :, k] = ndimage.binary_fill_holes(filled[:, :, k])
    return np.asarray(filled)
