"""The newest reconstruction of a pre-training run as image layers: given, target and found, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from numpy.typing import NDArray

    from napari_pcs.gui.state import State
    from napari_pcs.gui.watched import Reconstruction, Watched

__all__ = ["ReconstructionLayers", "column_of"]

_MARK = "napari_pcs_reconstruction"
_GAP_MM = 8
_MOST_SAMPLES = 4
_TARGET = "target"
_AXES = ("x", "y", "z")


class ReconstructionLayers:
    """Keeps one image layer for each image of the newest reconstruction, replaced when the next one comes.

    They lie beside the open hemisphere, anterior to it, and neither move the camera nor take the
    chosen layer away: somebody may be painting. Where nothing is open they are brought into view.
    """

    _instances: ClassVar[WeakKeyDictionary[Viewer, ReconstructionLayers]] = WeakKeyDictionary()

    @classmethod
    def attach(cls, viewer: Viewer, state: State) -> ReconstructionLayers:
        """Make the one of a viewer; it lives as long as the viewer."""
        cls._instances[viewer] = cls(viewer, state)
        return cls._instances[viewer]

    @classmethod
    def of(cls, viewer: Viewer) -> ReconstructionLayers:
        """Return the one of a viewer that has a state."""
        return cls._instances[getattr(viewer, "__wrapped__", viewer)]

    def __init__(self, viewer: Viewer, state: State) -> None:
        self._viewer, self._state = viewer, state
        self._shown: Reconstruction | None = None
        state.events.watched.connect(self._heard)
        state.events.case.connect(self._place)
        state.events.show_reconstructions.connect(self._toggled)

    def look(self) -> None:
        """Fill the canvas with the layers, in their middle slice."""
        layers, viewer = self._layers(), self._viewer
        if not layers:
            return
        extents = np.array([layer.extent.world for layer in layers])
        low, high = extents[:, 0].min(axis=0), extents[:, 1].max(axis=0)
        viewer.dims.set_point(0, float(low[0] + high[0]) / 2)
        viewer.reset_view()  # fits all layers: what is to be seen is a part of them
        everything = np.ptp(viewer.layers.extent.world, axis=0)
        shown = list(viewer.dims.displayed)
        viewer.scene.camera.center = (*[0] * (3 - len(shown)), *((low + high) / 2)[shown])
        viewer.scene.camera.zoom *= float((everything[shown] / np.maximum(high - low, 1)[shown]).min())

    def _layers(self) -> list[Image]:
        return [layer for layer in self._viewer.layers if _MARK in layer.metadata]

    def _heard(self, watched: Watched | None) -> None:
        picture = watched.picture if watched else None
        if picture is None or picture is self._shown or not self._state.show_reconstructions:
            return
        self._show(picture)

    def _toggled(self, wanted: bool) -> None:
        if wanted:
            self._heard(self._state.watched)
        else:
            self._remove()

    def _remove(self) -> None:
        self._shown = None
        for layer in self._layers():
            self._viewer.layers.remove(layer)

    def _show(self, picture: Reconstruction) -> None:
        alone, first = not self._others(), not self._layers()
        columns = [column_of(picture.volumes[:_MOST_SAMPLES, i]) for i in range(len(picture.images))]
        kept = {layer.name: layer for layer in self._layers()}
        if set(kept) != set(picture.images) or any(kept[n].data.shape != columns[0].shape for n in kept):
            self._remove()
            self._add(picture, columns)
        else:
            for name, column in zip(picture.images, columns, strict=True):
                kept[name].data = column
        self._shown = picture
        if first or not kept:
            self._place()
        if alone and first:
            self._orient()
        if alone:
            self._caption(picture)

    def _others(self) -> list[Any]:
        return [layer for layer in self._viewer.layers if _MARK not in layer.metadata]

    def _add(self, picture: Reconstruction, columns: list[NDArray[np.float32]]) -> None:
        chosen = self._viewer.layers.selection.active
        limits = _limits(columns[picture.images.index(_TARGET)] if _TARGET in picture.images else np.stack(columns))
        for name, column in zip(picture.images, columns, strict=True):
            layer = Image(
                column,
                name=name,
                colormap="gray",
                contrast_limits=limits,
                units=("mm",) * 3,
                axis_labels=_AXES,
                metadata={_MARK: name},
            )
            self._viewer.add_layer(layer)
        if chosen is not None:
            self._viewer.layers.selection.active = chosen

    def _place(self, _case: Any = None) -> None:
        """Put the layers beside the hemisphere that is open, in the slice that is shown."""
        layers, case = self._layers(), self._state.case
        if not layers:
            return
        size = np.array(layers[0].data.shape)
        corner = np.zeros(3)
        if case is not None:
            low = case.tissue.affine[:3, 3]
            high = low + np.array(case.tissue.shape) * case.tissue.spacing
            here = self._viewer.dims.point[-3]
            corner = np.array([here - size[0] / 2, high[1] + _GAP_MM, (low[2] + high[2] - size[2]) / 2])
        for i, layer in enumerate(layers):
            layer.translate = corner + np.array([0, i * (size[1] + _GAP_MM), 0])

    def _orient(self) -> None:
        self._viewer.dims.ndisplay = 2
        self._viewer.dims.order = (0, 2, 1)
        self._viewer.scene.camera.orientation2d = ("up", "right")
        self.look()

    def _caption(self, picture: Reconstruction) -> None:
        text = self._viewer.canvas.overlays.text
        text.text = f"{'   |   '.join(picture.images)}      after epoch {picture.epoch}"
        text.visible = True


def column_of(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the samples (sample, x, y, z), or (sample, height, width), as one volume: the first one on top.

    Pictures become a volume of one sagittal slice in which they stand upright.
    """
    if samples.ndim == 3:
        samples = samples[:, ::-1].transpose(0, 2, 1)[:, None]
    low = float(np.nanmin(samples)) if np.isfinite(samples).any() else 0.0
    padded = [np.pad(s, ((0, 0), (0, 0), (0, _GAP_MM // 2)), constant_values=low) for s in samples[1:]]
    return np.ascontiguousarray(np.concatenate([*padded[::-1], samples[0]], axis=2))


def _limits(values: NDArray[np.float32]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return low, high if high > low else low + 1.0
