"""The commissures by two clicks in the image, for a scan whose frame nobody knows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Points

from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.errors import InputError
from napari_pcs.gui.canvas import grid_of
from napari_pcs.gui.layers import LayerSync
from napari_pcs.gui.running import start_job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_pcs.case import Case
    from napari_pcs.commissures import Point
    from napari_pcs.gui.state import State
    from napari_pcs.stop import StopToken

__all__ = ["LANDMARKS", "POINTS", "ClickedCommissures"]

LANDMARKS = {"AC": "anterior commissure", "PC": "posterior commissure"}
POINTS = "AC and PC"
_COLORS = {"AC": "#ffd166", "PC": "#4cc9f0"}
_SIZE_MM = 4.0
_STILL_PIXELS = 4
"""A hand trembles: what moves less between press and release is a click."""
_CANCEL_KEY = "Escape"


class ClickedCommissures:
    """Takes clicks of a viewer for AC and PC, shows them, and gives the case its frame."""

    _instances: ClassVar[WeakKeyDictionary[Viewer, ClickedCommissures]] = WeakKeyDictionary()

    @classmethod
    def attach(cls, viewer: Viewer, state: State) -> ClickedCommissures:
        """Make the one of a viewer; it lives as long as the viewer."""
        cls._instances[viewer] = cls(viewer, state)
        return cls._instances[viewer]

    @classmethod
    def of(cls, viewer: Viewer) -> ClickedCommissures:
        """Return the one of a viewer that has a state."""
        return cls._instances[getattr(viewer, "__wrapped__", viewer)]

    def __init__(self, viewer: Viewer, state: State) -> None:
        self._viewer, self._state = viewer, state
        self._active: Layer | None = None
        state.events.case.connect(self._case_opened)
        state.events.prediction.connect(self._draw)
        viewer.layers.selection.events.active.connect(self._layer_chosen)

    def ask_for(self, landmark: str) -> None:
        """Take the next click in the image for this landmark; asked for again, no longer."""
        state = self._state
        if state.asked_for == landmark:
            self.stop_asking()
        elif state.case is None:
            state.say("There is no image to click in. Open a hemisphere first.", error=True)
        elif self._is_free():
            if state.asked_for is None:
                self._take_mouse()
            state.asked_for = landmark
            state.say(f"Click the {LANDMARKS[landmark]} in the image. Esc cancels.")

    def stop_asking(self) -> None:
        """Take no click any more."""
        if self._give_mouse_back():
            self._state.say("No point was set.")

    def _is_free(self) -> bool:
        # A job works on the case as it was: it must not change meanwhile.
        if self._state.job is not None:
            self._state.say(f"{self._state.job.title} is still running. Wait, then set the point.", error=True)
        return self._state.job is None

    def _take_mouse(self) -> None:
        # Without an active layer no tool paints under the click, and no layer keeps Esc for itself.
        self._active = self._viewer.layers.selection.active
        self._viewer.layers.selection.clear()
        self._viewer.mouse_drag_callbacks.append(self._pressed)
        self._viewer.bind_key(_CANCEL_KEY, lambda _viewer: self.stop_asking(), overwrite=True)

    def _give_mouse_back(self) -> bool:
        if self._state.asked_for is None:
            return False
        self._state.asked_for = None
        self._viewer.mouse_drag_callbacks.remove(self._pressed)
        self._viewer.bind_key(_CANCEL_KEY, None)
        if self._active in self._viewer.layers and self._viewer.layers.selection.active is None:
            self._viewer.layers.selection.active = self._active
        self._active = None
        return True

    def _layer_chosen(self, event: Any) -> None:
        # Someone takes a tool in hand instead.
        if event.value is not None:
            self.stop_asking()

    def _pressed(self, _viewer: Viewer, event: Any) -> Iterator[None]:
        if event.button != 1:
            return
        start, moved = np.array(event.pos), 0.0
        yield
        while event.type == "mouse_move":
            moved = max(moved, float(np.abs(np.array(event.pos) - start).max()))
            yield
        if moved < _STILL_PIXELS:
            self._clicked(np.array(event.position[-3:]))

    def _clicked(self, shown_mm: Any) -> None:
        """Take a click at displayed coordinates (3,), which leave out the oblique part of the affine."""
        state, landmark = self._state, self._state.asked_for
        if landmark is None or state.case is None or not self._is_free():
            return
        tissue = state.case.tissue
        index = (shown_mm - tissue.affine[:3, 3]) / tissue.spacing
        if self._viewer.dims.ndisplay != 2 or np.any((index < -0.5) | (index > np.array(tissue.shape) - 0.5)):
            state.say("Found a click outside the image or in 3-D, expected one in a slice of it.", error=True)
            return
        self._give_mouse_back()
        x, y, z = tissue.affine[:3, :3] @ index + tissue.affine[:3, 3]
        self._set({**state.clicked, landmark: (float(x), float(y), float(z))})

    def _set(self, clicked: dict[str, Point]) -> None:
        state, case = self._state, self._state.case
        assert case is not None  # noqa: S101  checked by the caller
        points = {**_known(case.commissures), **clicked}
        missing = [name for name in LANDMARKS if name not in points]
        try:
            frame = None if missing else _frame(points, case)
        except InputError as error:
            state.clicked = clicked
            self._draw()
            state.say(str(error), error=True)
            return
        if frame is None:
            state.clicked = clicked
            self._draw()
            state.say(f"Next: set {missing[0]}.")
            return
        known = replace(case, commissures=frame)
        # The same case on screen: no layer is drawn anew, and edits and their undo history stay.
        with state.events.case.blocked():
            state.case = known
        state.clicked = _known(frame)
        self._draw()
        LayerSync.of(self._viewer).measure_again()
        self._keep(known, f"AC and PC are {_apart(frame):.1f} mm apart.")

    def _keep(self, case: Case, found: str) -> None:
        """Write the frame of a case into the session, if it is in there."""
        session = self._state.session
        if session is None:
            self._state.say(f"{found} They are kept with the first correction that you save.")
            return

        def work(_stop: StopToken) -> Iterator[Any]:
            stored = session.has(case.key)
            if stored:
                session.add(case)  # refuses another image of the same name
                session.write_commissures(case)
            yield stored

        def show(stored: bool) -> None:
            where = "Kept in the session." if stored else "They are kept with the first correction that you save."
            self._state.say(f"{found} {where}")

        start_job(self._state, f"Keeping AC and PC of {case.key.stem}", work, show, may_be_abandoned=False)

    def _case_opened(self, case: Case | None) -> None:
        self._give_mouse_back()
        frame = case.commissures if case is not None else None
        self._state.clicked = _known(frame) if frame is not None and frame.source is FrameSource.CLICKS else {}
        self._draw()

    def _draw(self, _value: Any = None) -> None:
        """Show the clicked points above all other layers."""
        viewer, case, clicked = self._viewer, self._state.case, self._state.clicked
        active = viewer.layers.selection.active
        for layer in [layer for layer in viewer.layers if layer.name == POINTS and "napari_pcs" in layer.metadata]:
            viewer.layers.remove(layer)
        if case is None or not clicked:
            return
        to_index = np.linalg.inv(case.tissue.affine)
        layer = Points(
            np.array([to_index[:3, :3] @ np.array(p) + to_index[:3, 3] for p in clicked.values()]),
            name=POINTS,
            size=_SIZE_MM / float(np.mean(case.tissue.spacing)),
            face_color=[_COLORS[name] for name in clicked],
            border_color="black",
            features={"name": list(clicked)},
            text={"string": "{name}", "color": "white", "size": 10, "translation": [0, 0, 2 * _SIZE_MM]},
            **grid_of(case),
        )
        viewer.add_layer(layer)
        layer.editable = False
        viewer.layers.selection.active = active


def _known(frame: Commissures | None) -> dict[str, Point]:
    return {} if frame is None else {"AC": frame.ac_mm, "PC": frame.pc_mm}


def _frame(points: dict[str, Point], case: Case) -> Commissures:
    return Commissures.from_points(
        points["AC"], points["PC"], FrameSource.CLICKS, superior=case.tissue.affine[:3, 2] / case.tissue.spacing[2]
    )


def _apart(frame: Commissures) -> float:
    return float(np.linalg.norm(np.subtract(frame.ac_mm, frame.pc_mm)))
