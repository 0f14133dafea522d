"""Align a whole head with the template's brain: a coarse search everywhere, then ANTs from the best start."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.t1.alignment import Template, matrix_of, reduced, transform_of
from napari_pcs.anatomy.t1.bridge import ants_module, to_ants

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["register_head", "search_start"]

_COARSE_MM = 6.0
_GRID_MM = 3.0
_RIM_MM = 6.0
"""Fluid and skull around the brain, dark in both; the scalp beyond is not in the template."""
_TILTS_DEGREES = (-30, -20, -10, 0, 10, 20, 30)
"""Heads nod when they lie in the scanner."""
_SHIFTS_MM = {"y": np.arange(-36.0, 37.0, 9.0), "z": np.arange(-48.0, 49.0, 8.0)}
_HEAD_MM = 180.0
"""From the vertex to below the cerebellum: what lies lower is neck."""
_SCALP_MM = 8.0
_SEED = 1


def register_head(
    head: NDArray[np.float32], content: NDArray[np.bool_], affine: NDArray[np.float64], template: Template
) -> NDArray[np.float64]:
    """Return the affine (4, 4) from the head's world mm to MNI152 mm.

    Only the template's brain and a rim around it are compared, so that what the template does not
    have does not pull. Of the alignments with and without the rim the one that agrees better is kept.

    Parameters
    ----------
    head, content
        Scan with skull (x, y, z), and where it is brighter than air.
    affine
        Voxel index to world mm.
    template
        Skull-stripped brain in MNI152.
    """
    ants = ants_module()
    fine = Template(*reduced(template.data, template.affine, _GRID_MM))
    low = reduced(head, affine, _GRID_MM)
    found = [search_start(head, content, affine, template)]
    with TemporaryDirectory() as folder:
        for rim in (_RIM_MM, 0.0):
            start = str(Path(folder) / "start.mat")
            ants.write_transform(transform_of(found[0]), start)
            for kind in ("Rigid", "Affine"):
                result = ants.registration(
                    to_ants(*fine),
                    to_ants(*low),
                    type_of_transform=kind,
                    initial_transform=start,
                    mask=to_ants(_near(fine, rim), fine.affine),
                    mask_all_stages=True,
                    outprefix=str(Path(folder) / f"{kind}{rim:g}"),
                    random_seed=_SEED,
                )
                start = result["fwdtransforms"][0]
            found.append(matrix_of(ants.read_transform(start)))
    points = _Points.of(fine)
    return np.asarray(np.linalg.inv(max(found, key=lambda to_head: _agreement(points, low, to_head))))


def search_start(
    head: NDArray[np.float32], content: NDArray[np.bool_], affine: NDArray[np.float64], template: Template
) -> NDArray[np.float64]:
    """Return the shift and nod (4, 4), from MNI152 mm to world mm, at which head and template agree best."""
    coarse = Template(*reduced(template.data, template.affine, _COARSE_MM))
    low = reduced(head, affine, _COARSE_MM)
    inside = np.argwhere(_near(coarse, 0.0)) @ coarse.affine[:3, :3].T + coarse.affine[:3, 3]
    centre = (inside.min(axis=0) + inside.max(axis=0)) / 2
    middle = _middle_of_head(content, affine, float(np.ptp(inside[:, 2])))
    points, best, to_head = _Points.of(coarse), -np.inf, np.eye(4)
    for tilt, y, z in product(_TILTS_DEGREES, _SHIFTS_MM["y"], _SHIFTS_MM["z"]):
        candidate = _nod(tilt, centre, middle + np.array([0.0, y, z]))
        r = _agreement(points, low, candidate)
        if r > best:
            best, to_head = r, candidate
    return to_head


def _middle_of_head(content: NDArray[np.bool_], affine: NDArray[np.float64], brain_mm: float) -> NDArray[np.float64]:
    """Return where the brain's middle would be below the vertex, in world mm."""
    points = np.argwhere(content[::3, ::3, ::3]) * 3 @ affine[:3, :3].T + affine[:3, 3]
    top = np.percentile(points[:, 2], 99.8)
    skull = points[points[:, 2] > top - _HEAD_MM]
    middle = (np.percentile(skull, 2, axis=0) + np.percentile(skull, 98, axis=0)) / 2
    middle[2] = top - _SCALP_MM - brain_mm / 2
    return np.asarray(middle)


def _nod(degrees: float, centre: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = middle - matrix[:3, :3] @ centre
    return matrix


class _Points(NamedTuple):
    """Values of the template's brain and rim, and where they are: (3, n) MNI mm."""

    values: NDArray[np.float32]
    mm: NDArray[np.float64]

    @classmethod
    def of(cls, template: Template) -> _Points:
        near = _near(template, _RIM_MM)
        mm = template.affine[:3, :3] @ np.argwhere(near).T + template.affine[:3, 3:]
        return cls(template.data[near], mm)


def _near(template: Template, rim_mm: float) -> NDArray[np.bool_]:
    brain = template.data > 0.02 * template.data.max()
    spacing = np.linalg.norm(template.affine[:3, :3], axis=0)
    return np.asarray(ndimage.distance_transform_edt(~brain, spacing) <= rim_mm)


def _agreement(
    template: _Points, head: tuple[NDArray[np.float32], NDArray[np.float64]], to_head: NDArray[np.float64]
) -> float:
    """Return Pearson's r of template and head over the template's brain and its rim."""
    data, affine = head
    way = np.linalg.inv(affine) @ to_head
    seen = ndimage.map_coordinates(data, way[:3, :3] @ template.mm + way[:3, 3:], order=1)
    if not seen.std():
        return -1.0
    return float(np.corrcoef(template.values, np.minimum(seen, np.percentile(seen, 98)))[0, 1])
