"""How a hemisphere lies on the canvas: its grid, colours, orientation and the slice shown."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap

from napari_pcs.labels import LABELS, Hemisphere, Label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.viewer import Viewer
    from numpy.typing import NDArray

    from napari_pcs.case import Case

__all__ = ["contrast_of", "go_to_pcs", "grid_of", "label_colors", "layers_change", "orient", "warm_colors"]

AXES = ("x", "y", "z")
_SAMPLES, _BRIGHTEST = 40, 99.8
_MEDIAL_MM = 6.0
"""Distance from the midline of the first slice shown: the fundus of the medial sulci."""


def label_colors() -> DirectLabelColormap:
    """Return the colours of the label table."""
    colors: dict[int | None, Any] = {int(e.label): e.color for e in LABELS}
    return DirectLabelColormap(color_dict={**colors, None: "#00000000"})


@cache
def warm_colors() -> None:
    """Have napari compile on a thread, once, what colours labels: the first case would wait for it."""
    few = np.zeros((2, 2), np.uint8)
    threading.Thread(target=label_colors().map, args=(few,), name="napari-pcs: warming colours", daemon=True).start()


@contextmanager
def layers_change() -> Iterator[None]:
    """Spare what exists already while layers come and go.

    With each layer that goes napari looks through all objects of the program for garbage, which takes
    100 ms and more. What is left is found the next time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def grid_of(case: Case) -> dict[str, Any]:
    """Return the options that put a layer on the grid of a case and mark it as ours."""
    return {
        "scale": case.tissue.spacing,
        # The oblique part of an affine cannot be shown with permuted slices; it is kept for saving.
        "translate": tuple(case.tissue.affine[:3, 3]),
        "units": ("mm",) * 3,
        "axis_labels": AXES,
        "metadata": {"napari_pcs": case.key.stem},
    }


def contrast_of(image: NDArray[Any]) -> tuple[float, float]:
    """Return the darkest and the brightest value to show.

    Of bytes napari takes all that there could be, in which a tissue map of 0, 1 and 2 is black; and a
    few bright voxels, of vessels or fat, leave the rest of a scan dark.
    """
    some = image[:: max(image.shape[0] // _SAMPLES, 1), ::2, ::2]
    low, high = (float(value) for value in np.percentile(some[np.isfinite(some)], (0, _BRIGHTEST)))
    return (low, high) if high > low else (low, low + 1)


def orient(viewer: Viewer, case: Case) -> None:
    """Show the sagittal plane, anterior to the right and superior up, and say which side it is."""
    viewer.dims.ndisplay = 2
    viewer.dims.order = (0, 2, 1)
    viewer.scene.camera.orientation2d = ("up", "right")
    side = "LEFT" if case.key.hemisphere is Hemisphere.LEFT else "RIGHT"
    viewer.canvas.overlays.text.text = f"{case.key.stem}   {side} hemisphere"
    viewer.canvas.overlays.text.visible = True
    inside = np.flatnonzero(case.tissue.data.any(axis=(1, 2)))
    steps = round(_MEDIAL_MM / case.tissue.spacing[0])
    viewer.dims.set_current_step(0, int(inside[-1] - steps if side == "LEFT" else inside[0] + steps))
    viewer.reset_view()


def go_to_pcs(viewer: Viewer, labels: NDArray[np.uint8]) -> None:
    """Move to the sagittal slice with most PCS, if there is any."""
    area = np.count_nonzero(labels == Label.PCS, axis=(1, 2))
    if area.any():
        viewer.dims.set_current_step(0, int(np.argmax(area)))
