"""Where a brain lies in MNI152: an affine for its frame, and a coarse warp for the averages of other people."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.t1.bridge import ants_module, to_ants
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "Agreement",
    "Template",
    "agreement",
    "align",
    "check_alignment",
    "load_template",
    "matrix_of",
    "reduced",
    "transform_of",
    "warp",
]

GRID_MM = 2.5
"""Coarse enough for seconds, fine enough for the two banks of the interhemispheric fissure."""
MIN_CORRELATION = 0.6
"""Six upright scans reach 0.73 to 0.79; one of them upside down or back to front, 0.45 to 0.52."""
MIN_CONTRAST = 0.3
"""Six scans reach 0.61 to 0.74, and less than 0.02 when inverted."""
_SCALES = (0.65, 1.5)
"""MNI152 is larger than most brains."""
_MAX_TILT_DEGREES = 50.0
_SEED = 1
_AIR = 0.05
_BRIGHT = 0.02


class Template(NamedTuple):
    """A brain in MNI152: array (x, y, z), its affine to MNI mm."""

    data: NDArray[np.float32]
    affine: NDArray[np.float64]


class Agreement(NamedTuple):
    """Pearson's r of a brain and the template: over all voxels of either, and over those of both."""

    whole: float
    inside: float


def load_template() -> Template:
    """Return the skull-stripped ICBM 2009a template that nilearn carries, at 2 mm."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    data = np.asarray(image.dataobj, dtype=np.float32)
    # Sampling it at 2 mm rings: without this, the air around the brain is not 0.
    return Template(np.where(data > _AIR * data.max(), data, 0).astype(np.float32), np.asarray(image.affine))


def reduced(
    data: NDArray[np.floating], affine: NDArray[np.float64], spacing_mm: float = GRID_MM
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the image smoothed and sampled on a coarser grid along its own axes, and that grid's affine."""
    factor = np.maximum(spacing_mm / np.linalg.norm(affine[:3, :3], axis=0), 1.0)
    smooth = ndimage.gaussian_filter(data.astype(np.float32), 0.4 * (factor - 1))
    shape = tuple(int(n) for n in np.ceil(np.asarray(data.shape) / factor))
    coarse = affine.copy()
    coarse[:3, :3] = affine[:3, :3] * factor
    return ndimage.affine_transform(smooth, np.diag(factor), output_shape=shape, order=1), coarse


def align(brain: NDArray[np.float32], affine: NDArray[np.float64], template: Template) -> NDArray[np.float64]:
    """Return the affine (4, 4) from world mm to MNI152 mm of a skull-stripped brain.

    Mattes' mutual information on a coarse grid, from the centres of mass.
    """
    ants = ants_module()
    with TemporaryDirectory() as folder:
        result = ants.registration(
            to_ants(*reduced(brain, affine)),
            to_ants(*template),
            type_of_transform="Affine",
            outprefix=f"{folder}/",
            random_seed=_SEED,
        )
        transform = ants.read_transform(result["fwdtransforms"][0])
    return matrix_of(transform)


def warp(
    brain: NDArray[np.float32],
    affine: NDArray[np.float64],
    to_mni: NDArray[np.float64],
    template: Template,
    maps: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float64]]],
) -> dict[str, NDArray[np.float32]]:
    """Bring maps in MNI152 onto the brain's own grid by a deformation that refines the affine.

    Parameters
    ----------
    brain, affine
        Skull-stripped brain (x, y, z) and its affine to world mm.
    to_mni
        Affine from world mm to MNI152 mm.
    template
        The brain in MNI152 that is deformed.
    maps
        Arrays in MNI152 with their affines.
    """
    ants = ants_module()
    with TemporaryDirectory() as folder:
        start = str(Path(folder) / "start.mat")
        ants.write_transform(transform_of(to_mni), start)
        result = ants.registration(
            to_ants(*reduced(brain, affine)),
            to_ants(*template),
            type_of_transform="SyNOnly",
            initial_transform=start,
            syn_metric="mattes",
            reg_iterations=(40, 20, 10),
            outprefix=f"{folder}/",
            random_seed=_SEED,
        )
        grid = to_ants(brain, affine)
        return {
            name: ants.apply_transforms(grid, to_ants(*image), result["fwdtransforms"]).numpy()
            for name, image in maps.items()
        }


def agreement(
    brain: NDArray[np.float32], affine: NDArray[np.float64], to_mni: NDArray[np.float64], template: Template
) -> Agreement:
    """Return how well an aligned brain and the template agree."""
    low, coarse = reduced(brain, affine, 4.0)
    back = np.linalg.inv(template.affine) @ to_mni @ coarse
    other = ndimage.affine_transform(
        ndimage.gaussian_filter(template.data, 0.8), back[:3, :3], back[:3, 3], output_shape=low.shape, order=1
    )
    brains = low > _BRIGHT * low.max(), other > _BRIGHT * other.max()
    either, both = brains[0] | brains[1], brains[0] & brains[1]
    if np.count_nonzero(both) < 2:
        return Agreement(0.0, 0.0)
    whole, inside = (float(np.corrcoef(low[where], other[where])[0, 1]) for where in (either, both))
    return Agreement(whole, inside)


def check_alignment(to_mni: NDArray[np.float64], r: Agreement) -> None:
    """Require that a brain was found, of a brain's size and upright.

    Raises
    ------
    InputError
        If not.
    """
    stretch, tilt = _shape_of(to_mni)
    advice = "Look at the scan: it may not be T1-weighted, be upside down in its header, or show a part of a brain."
    if r.whole < MIN_CORRELATION:
        raise InputError(
            found=f"a scan that agrees with the MNI152 brain only to r = {r.whole:.2f}",
            expected=f"at least {MIN_CORRELATION:g}",
            advice=advice,
        )
    if r.inside < MIN_CONTRAST:
        raise InputError(
            found=f"a brain whose grey and white matter agree with a T1's only to r = {r.inside:.2f}",
            expected=f"at least {MIN_CONTRAST:g}: white matter bright, grey darker, fluid dark",
            advice="The scan may be T2-weighted, FLAIR or inverted: choose the T1-weighted one.",
        )
    low, high = _SCALES
    if stretch.min() < low or stretch.max() > high or tilt > _MAX_TILT_DEGREES:
        raise InputError(
            found=f"a brain that fits MNI152 only when scaled by {stretch.min():.2f} to {stretch.max():.2f} "
            f"and turned by {tilt:.0f} degrees",
            expected=f"{low:g} to {high:g} and at most {_MAX_TILT_DEGREES:.0f} degrees",
            advice=advice,
        )


def _shape_of(to_mni: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the three principal scales of an affine and the angle of its rotation in degrees."""
    u, scales, vt = np.linalg.svd(to_mni[:3, :3])
    rotation = u @ vt
    if np.linalg.det(rotation) < 0:
        return -scales, 180.0
    return scales, float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def matrix_of(transform: Any) -> NDArray[np.float64]:
    """Return an ITK transform of points as a matrix, whatever its centre."""
    points = np.array([transform.apply_to_point(p) for p in np.vstack([np.zeros(3), np.eye(3)]).tolist()])
    matrix = np.eye(4)
    matrix[:3, 3] = points[0]
    matrix[:3, :3] = (points[1:] - points[0]).T
    return matrix


def transform_of(matrix: NDArray[np.float64]) -> Any:
    """Return a matrix (4, 4) as an ITK transform."""
    return ants_module().create_ants_transform(
        transform_type="AffineTransform", dimension=3, matrix=matrix[:3, :3], translation=matrix[:3, 3]
    )
