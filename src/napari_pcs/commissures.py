"""The stereotaxic frame of a brain: anterior and posterior commissure and the midline, in world mm."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["AC_MNI", "PC_MNI", "Commissures", "FrameSource"]

AC_MNI = (0.0, 2.5, -4.5)
"""Anterior commissure in MNI152 mm, read off the template (ICBM 2009a); MNI's origin lies 5 mm above it."""
PC_MNI = (0.0, -25.0, -2.0)
_PLAUSIBLE_DISTANCE_MM = (15.0, 40.0)
"""Between the commissures; 23 to 28 mm in most adults."""

Point = tuple[float, float, float]
Row = tuple[float, float, float, float]


class FrameSource(StrEnum):
    """How the commissures became known."""

    FILE = "file"
    REGISTRATION = "registration"
    CLICKS = "clicks"
    WORLD = "world"


class Commissures(BaseModel):
    """Anterior commissure (AC), posterior commissure (PC) and midline of one scan.

    Attributes
    ----------
    ac_mm, pc_mm
        World coordinates (x, y, z) in mm, as the image's affine gives them.
    right
        Unit normal of the midline plane, which holds both commissures; it points to the person's right.
    source, detail
        How they became known, and from what exactly.
    to_mni
        Affine from world mm to MNI152 mm, row by row, where a registration gave one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ac_mm: Point = Field(title="Anterior commissure", json_schema_extra={"unit": "mm"})
    pc_mm: Point = Field(title="Posterior commissure", json_schema_extra={"unit": "mm"})
    right: Point
    source: FrameSource
    detail: str = ""
    to_mni: tuple[Row, Row, Row, Row] | None = None

    @classmethod
    def from_points(
        cls,
        ac: ArrayLike,
        pc: ArrayLike,
        source: FrameSource,
        detail: str = "",
        *,
        superior: ArrayLike = (0.0, 0.0, 1.0),
        to_mni: NDArray[np.floating] | None = None,
    ) -> Self:
        """Make a frame of two points and a direction that lies in the midline plane.

        Parameters
        ----------
        ac, pc
            World coordinates in mm.
        source, detail
            How they became known.
        superior
            Direction in the midline plane towards the vertex; the world's own z unless better is known.
        to_mni
            (4, 4) affine from world mm to MNI152 mm.

        Raises
        ------
        InputError
            If the points are not as far apart as commissures are, or exchanged.
        """
        front, back = np.asarray(ac, dtype=float), np.asarray(pc, dtype=float)
        apart = float(np.linalg.norm(front - back))
        low, high = _PLAUSIBLE_DISTANCE_MM
        if not low <= apart <= high:
            raise InputError(
                found=f"anterior and posterior commissure {apart:.1f} mm apart",
                expected=f"{low:.0f} to {high:.0f} mm",
                advice="Set both points again.",
            )
        right = np.cross(front - back, np.asarray(superior, dtype=float))
        if front[1] <= back[1] or np.linalg.norm(right) < 1e-6 * apart:
            raise InputError(
                found="an anterior commissure that does not lie in front of the posterior one",
                expected="AC anterior, PC posterior",
                advice="They may be exchanged: set both points again.",
            )
        rows = None if to_mni is None else tuple(tuple(float(v) for v in row) for row in to_mni)
        return cls(
            ac_mm=_point(front),
            pc_mm=_point(back),
            right=_point(right / np.linalg.norm(right)),
            source=source,
            detail=detail,
            to_mni=rows,
        )

    @classmethod
    def from_mni(cls, to_mni: NDArray[np.floating], source: FrameSource, detail: str = "") -> Self:
        """Make a frame of an affine (4, 4) from world mm to MNI152 mm."""
        back = np.linalg.inv(to_mni)
        ac, pc = (back[:3, :3] @ p + back[:3, 3] for p in (np.asarray(AC_MNI), np.asarray(PC_MNI)))
        return cls.from_points(ac, pc, source, detail, superior=back[:3, 2], to_mni=to_mni)

    @property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3): unit vectors to the right, forward along the AC-PC line and up, as rows."""
        right = np.asarray(self.right)
        anterior = np.asarray(self.ac_mm) - np.asarray(self.pc_mm)
        anterior /= np.linalg.norm(anterior)
        return np.stack([right, anterior, np.cross(right, anterior)])

    def to_acpc(self, world_mm: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return (n, 3) mm to the right of, in front of and above the AC for world points (n, 3)."""
        return np.asarray((world_mm - np.asarray(self.ac_mm)) @ self.axes.T)

    def sidecar(self, world_to_voxel: NDArray[np.floating]) -> dict[str, Any]:
        """Return the fields for a sidecar: ours in world mm, and BIDS landmarks in voxels of the stored file."""
        landmarks = {
            name: np.round(world_to_voxel[:3, :3] @ np.asarray(point) + world_to_voxel[:3, 3], 3).tolist()
            for name, point in (("AC", self.ac_mm), ("PC", self.pc_mm))
        }
        return {"AnatomicalLandmarkCoordinates": landmarks, "Commissures": self.model_dump(mode="json")}


def _point(values: NDArray[np.floating]) -> Point:
    x, y, z = (float(v) for v in values)
    return x, y, z
