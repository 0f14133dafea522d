"""Align one hemisphere's tissue map with the average hemisphere in MNI152."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk  # noqa: N813  its own documentation's name
from scipy import ndimage

from napari_pcs.anatomy.atlas import cerebrum
from napari_pcs.anatomy.extent import box_around
from napari_pcs.anatomy.mni import TEMPLATE_LENGTH_MM
from napari_pcs.commissures import AC_MNI, Commissures, FrameSource
from napari_pcs.errors import InputError
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.anatomy.frame import HemisphereFrame
    from napari_pcs.volume import Volume

__all__ = ["MIN_CORRELATION", "align_brain_to_mni", "align_to_mni", "register"]

GRID_MM = 4.0
_TEMPLATE_MM = 2
MIN_CORRELATION = 0.6
MAX_STRETCH = 1.6
"""Heads differ by less; the right hemisphere taken for a left one is aligned to r = 0.78 by a stretch of 3."""
_ITERATIONS = 120


def register(tissue: Volume, frame: HemisphereFrame, stop: StopToken | None = None) -> Commissures:
    """Return the commissures of a hemisphere by aligning its tissue map with the average.

    Parameters
    ----------
    tissue
        0 outside and fluid, 1 grey, 2 white.
    frame
        The same hemisphere's estimated frame, from which the alignment starts.
    stop
        Checked at each step of the alignment, which takes seconds in all.

    Raises
    ------
    InputError
        If the map does not look like that hemisphere.
    CancelledError
        Soon after `stop` is set.
    """
    to_mni, correlation = align_to_mni(tissue, frame, stop)
    stretch = np.linalg.svd(to_mni[:3, :3], compute_uv=False)
    shape = float(stretch[0] / stretch[-1])
    if correlation < MIN_CORRELATION or shape > MAX_STRETCH:
        raise InputError(
            found=f"a tissue map that agrees with the average hemisphere only to r = {correlation:.2f}, "
            f"{shape:.1f} times as far stretched one way as another",
            expected=f"at least {MIN_CORRELATION} and at most {MAX_STRETCH} times",
            advice="Look at the image: it may be the other side, not upright or incomplete. Set AC and PC by hand.",
            path=tissue.path,
        )
    detail = f"tissue map to the average of 55 people in MNI152, affine, r = {correlation:.2f}"
    return Commissures.from_mni(to_mni, FrameSource.REGISTRATION, detail)


def align_to_mni(
    tissue: Volume, frame: HemisphereFrame, stop: StopToken | None = None
) -> tuple[NDArray[np.float64], float]:
    """Return the affine (4, 4) from the map's world mm to MNI152 mm, and the correlation reached."""
    average = cerebrum(frame.hemisphere)
    return _align(tissue, frame, average.grey + 2 * average.white, average.affine, stop or StopToken())


def align_brain_to_mni(
    tissue: Volume, frame: HemisphereFrame, stop: StopToken | None = None
) -> tuple[NDArray[np.float64], float]:
    """Align a map of a whole brain, cerebellum and all; `frame.origin` lies between the hemispheres.

    The template is the one that nilearn carries (ICBM 2009a symmetric, Fonov et al. 2011).
    """
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    grey, white = (load(resolution=_TEMPLATE_MM) for load in (load_mni152_gm_template, load_mni152_wm_template))
    average = np.asarray(grey.dataobj, dtype=np.float32) + 2 * np.asarray(white.dataobj, dtype=np.float32)
    return _align(tissue, frame, average, grey.affine, stop or StopToken())


def _align(
    tissue: Volume,
    frame: HemisphereFrame,
    average: NDArray[np.float32],
    average_affine: NDArray[np.float64],
    stop: StopToken,
) -> tuple[NDArray[np.float64], float]:
    moving = _image(average, average_affine)
    data, affine = _reduced(tissue)
    fixed = _image(data, affine)
    start = sitk.AffineTransform(3)
    origin = tissue.affine[:3, :3] @ np.asarray(frame.origin) + tissue.affine[:3, 3]
    scale = TEMPLATE_LENGTH_MM / frame.length_mm
    start.SetMatrix((np.eye(3) * scale).ravel().tolist())
    start.SetTranslation((np.asarray(AC_MNI) - scale * origin).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsConjugateGradientLineSearch(
        learningRate=1.0, numberOfIterations=_ITERATIONS, convergenceMinimumValue=1e-5, convergenceWindowSize=8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([1])
    method.SetSmoothingSigmasPerLevel([2.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    method.AddCommand(sitk.sitkIterationEvent, lambda: method.StopRegistration() if stop.is_set() else None)
    method.Execute(fixed, moving)
    stop.check()
    to_mni = np.eye(4)
    to_mni[:3, :3] = np.reshape(start.GetMatrix(), (3, 3))
    centre = np.asarray(start.GetCenter())
    to_mni[:3, 3] = np.asarray(start.GetTranslation()) + centre - to_mni[:3, :3] @ centre
    return to_mni, -float(method.GetMetricValue())


def _reduced(tissue: Volume) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the map averaged onto a coarse grid, with a margin, and that grid's affine."""
    box = box_around(tissue.data > 0, round(8 * GRID_MM))
    spacing = np.asarray(tissue.spacing)
    factor = GRID_MM / spacing
    smooth = ndimage.gaussian_filter(tissue.data[box].astype(np.float32), 0.45 * factor)
    shape = tuple(int(n) for n in np.ceil(np.asarray(smooth.shape) / factor))
    data = ndimage.affine_transform(smooth, np.diag(factor), output_shape=shape, order=1)
    affine = tissue.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    affine[:3, :3] = affine[:3, :3] * factor
    return data, affine


def _image(data: NDArray[np.float32], affine: NDArray[np.float64]) -> sitk.Image:
    """Wrap an array as an ITK image whose physical points are our world mm: no change of axes is needed."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image
