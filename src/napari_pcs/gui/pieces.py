"""The layer of fold pieces: what the skeleton falls into, below the labels, for orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Labels

from napari_pcs.gui.canvas import grid_of

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_pcs.gui.state import State

__all__ = ["PIECES", "show_pieces_with"]

PIECES = "fold pieces"


def show_pieces_with(viewer: Viewer, state: State, below: str) -> None:
    """Keep a layer of the state's fold pieces in a viewer, below our layer of this name."""

    def draw(_value: object = None) -> None:
        for layer in [layer for layer in viewer.layers if layer.name == PIECES and _is_ours(layer)]:
            viewer.layers.remove(layer)
        if state.case is not None and state.pieces is not None:
            layer = Labels(state.pieces, name=PIECES, visible=False, **grid_of(state.case))
            _add(viewer, layer, below)

    state.events.pieces.connect(draw)


def _add(viewer: Viewer, layer: Labels, below: str) -> None:
    active = viewer.layers.selection.active
    above = next((n for n, other in enumerate(viewer.layers) if other.name == below and _is_ours(other)), None)
    viewer.add_layer(layer)
    layer.editable = False
    if above is not None:
        viewer.layers.move(len(viewer.layers) - 1, above)
    viewer.layers.selection.active = active


def _is_ours(layer: Layer) -> bool:
    return "napari_pcs" in layer.metadata
