"""Which slices of the open case its annotator looks at while there are labels to edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from qtpy.QtCore import QTimer

from napari_pcs.case import Case, LabelRole
from napari_pcs.gui.layers import LayerSync
from napari_pcs.looked import Looked

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_pcs.gui.state import State

__all__ = ["Looking"]

_PLANES = ("sagittal", "coronal", "axial")
"""Slices across x, y and z of a grid in RAS order."""


class Looking:
    """Writes down every slice that is shown in 2-D while labels are open for editing.

    The record goes on from that of the correction that was opened, and begins anew when other labels
    take the place of those that were looked at.
    """

    _instances: ClassVar[WeakKeyDictionary[Viewer, Looking]] = WeakKeyDictionary()

    @classmethod
    def attach(cls, viewer: Viewer, state: State) -> Looking:
        """Make the one of a viewer; it lives as long as the viewer, whose labels are synchronised already."""
        cls._instances[viewer] = cls(viewer, state)
        return cls._instances[viewer]

    @classmethod
    def of(cls, viewer: Viewer) -> Looking:
        """Return the one of a viewer that has a state."""
        return cls._instances[getattr(viewer, "__wrapped__", viewer)]

    def __init__(self, viewer: Viewer, state: State) -> None:
        self._there: tuple[set[int], ...] | None = None
        self._viewer, self._state, self._sync = viewer, state, LayerSync.of(viewer)
        # A slice counts once it is drawn: opening a case passes by some that nobody ever sees.
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._note)
        dims, camera = viewer.dims.events, viewer.scene.camera.events
        for signal in (dims.point, dims.order, dims.ndisplay, camera.center):
            signal.connect(self._moved)
        state.events.case.connect(self._opened)
        self._sync.replaced.connect(self._begin_anew)

    def words(self) -> str:
        """Say how many of the slices that show the hemisphere were looked at."""
        case = self._state.case
        if case is None:
            return ""
        if self._there is None:
            self._there = _slices_of(case)
        counts = [
            (len(seen & there), len(there)) for seen, there in zip(self._state.looked.indices, self._there, strict=True)
        ]
        parts = [f"{n} of {of} {plane}" for (n, of), plane in zip(counts, _PLANES, strict=True) if n]
        return f"looked at {' and '.join(parts)} slices" if parts else "no slice of it was looked at yet"

    def _moved(self, _event: Any = None) -> None:
        if self._sync.has_labels and not self._timer.isActive():
            self._timer.start()

    def _opened(self, case: Case | None) -> None:
        self._there = None
        known = case.labels.get(LabelRole.CORRECTED) if case is not None else None
        self._state.partly_done = known is not None and known.provenance.partly_done
        self._state.looked = (known.provenance.looked_at if known is not None else None) or Looked()
        self._moved()

    def _begin_anew(self) -> None:
        self._state.looked = Looked()
        self._moved()

    def _note(self) -> None:
        shown = self._shown()
        if shown is None:
            return
        axis, index = shown
        slices = self._state.looked.indices
        if index not in slices[axis]:
            slices[axis].add(index)
            self._state.looked = Looked.at(slices)

    def _shown(self) -> tuple[int, int] | None:
        """Return axis and voxel index of the slice of the labels that fills the canvas; None if none does."""
        layer, dims = self._sync.layer, self._viewer.dims
        if layer is None or not layer.visible or layer not in self._viewer.layers or dims.ndisplay != 2:
            return None
        extra = dims.ndim - layer.ndim
        across = [axis - extra for axis in dims.not_displayed if axis >= extra]
        if len(across) != 1:
            return None
        position = np.array(dims.point)
        # What is looked at lies in the middle of the canvas: other layers may lie beside the hemisphere.
        position[list(dims.displayed)] = self._viewer.scene.camera.center[-2:]
        voxel = np.round(layer.world_to_data(position)).astype(int)
        inside = np.all((voxel >= 0) & (voxel < layer.data.shape))
        return (across[0], int(voxel[across[0]])) if inside else None


def _slices_of(case: Case) -> tuple[set[int], ...]:
    """Return the slices along x, y and z in which there is some of the hemisphere."""
    inside = case.tissue.data > 0
    others = ((1, 2), (0, 2), (0, 1))
    return tuple(set(np.flatnonzero(inside.any(axis=axes)).tolist()) for axes in others)
