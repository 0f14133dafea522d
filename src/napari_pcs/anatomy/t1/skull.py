"""Find out whether a scan still has its skull, and take it off."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.t1.alignment import Template, reduced
from napari_pcs.anatomy.t1.bridge import ants_module, to_ants
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["brain_mask", "has_skull", "register_head"]

MAX_BRAIN_LITRES = 2.1
"""The largest brains with their fluid; a head has 3 litres and more."""
_HEAD_MM = 180.0
"""From the vertex to below the cerebellum: what lies lower is neck."""
_REGION_MM = 6.0
"""How far a brain may lie outside the affinely aligned template's."""
_OPENING_MM = 2.5
_CLOSING_MM = 6.0
_FLUID_SHARE = 0.5
"""Of white matter's brightness: darker is fluid, bone or membrane."""
_GLARE = 1.35
"""Of white matter's brightness: brighter is fat or marrow."""
_GRID_MM = 3.0
_SEED = 1


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


def register_head(
    head: NDArray[np.float32], content: NDArray[np.bool_], affine: NDArray[np.float64], template: Template
) -> NDArray[np.float64]:
    """Return the affine (4, 4) from the head's world mm to MNI152 mm.

    Only the template's brain and a rim around it are compared, so that what is outside, and the
    template does not have, does not pull.
    """
    ants = ants_module()
    low, coarse = reduced(head, affine, _GRID_MM)
    rim = ndimage.binary_dilation(template.data > 0, iterations=4)
    with TemporaryDirectory() as folder:
        start = str(Path(folder) / "start.mat")
        ants.write_transform(_start(content, affine, template), start)
        result = ants.registration(
            to_ants(*template),
            to_ants(low, coarse),
            type_of_transform="Affine",
            initial_transform=start,
            mask=to_ants(rim, template.affine),
            outprefix=f"{folder}/",
            random_seed=_SEED,
        )
        transform = ants.read_transform(result["fwdtransforms"][0])
        points = np.array([transform.apply_to_point(p) for p in np.vstack([np.zeros(3), np.eye(3)]).tolist()])
    to_head = np.eye(4)
    to_head[:3, 3] = points[0]
    to_head[:3, :3] = (points[1:] - points[0]).T
    return np.asarray(np.linalg.inv(to_head))


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
    back = np.linalg.inv(template.affine) @ to_mni @ affine
    far = ndimage.distance_transform_edt(template.data <= 0, template_spacing(template))
    far = ndimage.affine_transform(far, back[:3, :3], back[:3, 3], output_shape=head.shape, order=1, cval=99)
    core = ndimage.distance_transform_edt(far <= 0, spacing) > 8
    white = float(np.percentile(head[core], 75))
    tissue = (far < _REGION_MM) & (head > _FLUID_SHARE * white) & (head < _GLARE * white)
    opened = ndimage.distance_transform_edt(tissue, spacing) > _OPENING_MM
    components, n = ndimage.label(opened)
    if n == 0:
        raise InputError(
            found="a head in which no brain could be found",
            expected="a T1-weighted scan of a whole brain",
            advice="Take the skull off first (FreeSurfer, SynthStrip or HD-BET do it) and open the brain.",
        )
    largest = components == 1 + np.argmax(np.bincount(components.ravel())[1:])
    grown = tissue & (ndimage.distance_transform_edt(~largest, spacing) < _OPENING_MM + 0.8)
    closed = ndimage.distance_transform_edt(~grown, spacing) < _CLOSING_MM
    closed = ndimage.distance_transform_edt(closed, spacing) > _CLOSING_MM - 0.5
    return _filled(closed | grown)


def template_spacing(template: Template) -> NDArray[np.float64]:
    """Return the template's voxel size in mm."""
    return np.asarray(np.linalg.norm(template.affine[:3, :3], axis=0))


def _start(content: NDArray[np.bool_], affine: NDArray[np.float64], template: Template) -> object:
    """Return the shift that lays the template's centre onto the head's, neck left out."""
    points = np.argwhere(content[::3, ::3, ::3]) * 3 @ affine[:3, :3].T + affine[:3, 3]
    top = np.percentile(points[:, 2], 99.8)
    head = points[points[:, 2] > top - _HEAD_MM]
    middle = (np.percentile(head, 2, axis=0) + np.percentile(head, 98, axis=0)) / 2
    brain = np.argwhere(template.data > 0) @ template.affine[:3, :3].T + template.affine[:3, 3]
    centre = (brain.min(axis=0) + brain.max(axis=0)) / 2
    middle[2] = top - 0.5 * float(np.ptp(brain[:, 2])) - 8.0  # scalp and skull are about 8 mm thick
    return ants_module().create_ants_transform(
        transform_type="AffineTransform", dimension=3, matrix=np.eye(3), translation=middle - centre
    )


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill holes in the volume and in every slice of it: noses and ears are open to the side."""
    filled = ndimage.binary_fill_holes(mask)
    for k in range(filled.shape[2]):
        filled[:, :, k] = ndimage.binary_fill_holes(filled[:, :, k])
    return np.asarray(filled)
