"""The stages from a raw scan to two hemispheres, run where they are called: in a process of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.anatomy.extent import box_around
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.t1 import alignment, checks, head, hemispheres, skull, tissue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_pcs.labels import Hemisphere

__all__ = ["Result", "run"]

_MARGIN_VOXELS = 3


@dataclass(frozen=True)
class Result:
    """Arrays on the scan's grid, the affine to MNI152 and how well it fits.

    Attributes
    ----------
    image
        Bias-corrected scan, skull included if it was there.
    tissue
        Per hemisphere 0 outside and fluid, 1 grey, 2 white matter.
    to_mni
        (4, 4): world mm to MNI152 mm.
    correlation
        Pearson's r of brain and template.
    skull
        Whether a skull had to be taken off.
    timings_s
        Seconds of each stage.
    """

    image: NDArray[np.float32]
    tissue: dict[Hemisphere, NDArray[np.uint8]]
    to_mni: NDArray[np.float64]
    correlation: float
    skull: bool
    timings_s: dict[str, float] = field(default_factory=dict)


def run(data: NDArray[np.floating], affine: NDArray[np.float64]) -> Iterator[Step | Result]:
    """Segment a scan, saying before each stage what it is.

    Parameters
    ----------
    data
        T1-weighted scan with or without skull, axes (x, y, z) in RAS order.
    affine
        (4, 4): voxel index to world mm.

    Raises
    ------
    InputError
        If it is no T1 of a whole, upright brain, or its hemispheres cannot be told apart.
    """
    clock = _Clock()
    yield clock.step("check", "Looking at the scan", 0.0)
    checks.check_scan(data, affine)
    content = checks.foreground(data)
    checks.check_extent(content, affine)
    spacing = _spacing(affine)
    template = alignment.load_template()
    skulled = skull.has_skull(content, spacing)
    mask = content if skulled else data > 0
    if skulled:
        yield clock.step("skull", "Taking off the skull", 0.03)
        whole = np.asarray(data, dtype=np.float32)
        mask = skull.brain_mask(whole, affine, head.register_head(whole, content, affine, template), template)
    box = box_around(mask, _MARGIN_VOXELS)
    inside, place = mask[box], affine.copy()
    place[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    brain = tissue.without_glare(np.asarray(data[box], dtype=np.float32), inside)

    yield clock.step("align", "Aligning it with MNI152", 0.1)
    to_mni = alignment.align(brain, place, template)
    r = alignment.agreement(brain, place, to_mni, template)
    alignment.check_alignment(to_mni, r)

    yield clock.step("bias", "Evening out its brightness", 0.15)
    corrected, bias = tissue.correct_bias(brain, inside, place)

    yield clock.step("warp", "Laying the average brain over it", 0.3)
    shares = hemispheres.shares_of(alignment.warp(corrected, place, to_mni, template, hemispheres.average_maps()))

    yield clock.step("classify", "Telling grey and white matter apart", 0.45)
    classes = tissue.classify(corrected, inside, place)
    tissue.check_classes(corrected, classes)

    yield clock.step("hemispheres", "Parting the hemispheres", 0.93)
    parts = hemispheres.part(classes, corrected, shares, spacing)
    hemispheres.check_hemispheres(parts, to_mni, place)
    image = np.asarray(data, dtype=np.float32).copy()
    image[box] = np.where(inside, image[box] / bias, image[box])
    clock.stop()
    full = {h: _uncropped(p, box, data.shape) for h, p in parts.items()}
    yield Result(image, full, to_mni, r.whole, skulled, clock.seconds)


class _Clock:
    """Seconds from one step to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._start = "", 0.0

    def step(self, name: str, sentence: str, fraction: float) -> Step:
        self.stop()
        self._name, self._start = name, perf_counter()
        return Step(sentence, fraction)

    def stop(self) -> None:
        if self._name:
            self.seconds[self._name] = perf_counter() - self._start


def _spacing(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def _uncropped(part: NDArray[np.uint8], box: tuple[slice, ...], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    full = np.zeros(shape, dtype=np.uint8)
    full[box] = part
    return full
