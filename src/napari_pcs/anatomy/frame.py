"""Where a hemisphere sits: midline, anterior commissure and size, estimated from its outline.

Models and anatomical zones need to know where "medial" and "frontal" are. Until the commissures
are marked or registered, they are estimated from the content. Over 110 hemispheres aligned to the
MNI frame the anterior commissure lay 39.1 % of the hemisphere's length behind the frontal pole
(standard deviation 1.3 mm) and 46.0 % of it below the vertex (3.6 mm).

Coordinates here are millimetres along the axes of a closest-canonical (RAS) array: x is distance
from the midline and grows laterally in both hemispheres, y grows anteriorly, z superiorly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.extent import bounds
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HemisphereFrame", "estimate_frame"]

AC_BEHIND_FRONTAL_POLE = 0.391
"""Share of the hemisphere's antero-posterior length."""
AC_BELOW_VERTEX = 0.460
REFERENCE_LENGTH_MM = 160.0
"""Antero-posterior length of the hemisphere to which normalised coordinates refer."""
_PLAUSIBLE_LENGTH_MM = (110.0, 230.0)


@dataclass(frozen=True)
class HemisphereFrame:
    """Anterior commissure, midline and size of one hemisphere on its RAS grid.

    Attributes
    ----------
    hemisphere
        Which side: it decides the sign of x.
    origin
        Voxel index (x, y, z) of the point on the midline above which the anterior commissure lies.
    spacing
        Voxel size (x, y, z) in mm.
    length_mm
        Antero-posterior length of the hemisphere in mm.
    """

    hemisphere: Hemisphere
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    length_mm: float

    @property
    def scale(self) -> float:
        """Size relative to the reference hemisphere."""
        return self.length_mm / REFERENCE_LENGTH_MM

    @property
    def lateral(self) -> int:
        """Sign of the RAS x axis that points away from the midline: -1 left, +1 right."""
        return -1 if self.hemisphere is Hemisphere.LEFT else 1

    def axes_mm(self, shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
        """Return three broadcastable arrays: lateral, anterior and superior mm from the origin."""
        signs = (self.lateral, 1, 1)
        lines = [
            (np.arange(n, dtype=np.float32) - o) * s * sign
            for n, o, s, sign in zip(shape, self.origin, self.spacing, signs, strict=True)
        ]
        return [line.reshape([-1 if i == axis else 1 for i in range(3)]) for axis, line in enumerate(lines)]


def estimate_frame(
    tissue: NDArray[np.bool_], spacing: tuple[float, float, float], hemisphere: Hemisphere
) -> HemisphereFrame:
    """Estimate the frame of a hemisphere from the outline of its tissue.

    Parameters
    ----------
    tissue
        Grey or white matter, boolean, axes (x, y, z) in RAS order.
    spacing
        Voxel size in mm.
    hemisphere
        Side of the hemisphere.

    Raises
    ------
    InputError
        If there is no tissue or its length is not that of a hemisphere, for example because the
        spacing is in metres.
    """
    components, n = ndimage.label(tissue)
    if n == 0:
        raise InputError(found="no grey or white matter", expected="one hemisphere")
    largest = components == 1 + np.argmax(np.bincount(components.ravel())[1:])
    spans = bounds(largest)
    length = (spans[1][-1] - spans[1][0] + 1) * spacing[1]
    low, high = _PLAUSIBLE_LENGTH_MM
    if not low <= length <= high:
        raise InputError(
            found=f"tissue {length:.4g} mm long from front to back",
            expected=f"a hemisphere of {low:.0f} to {high:.0f} mm",
            advice="Check the voxel size and its unit in the header.",
        )
    midline = spans[0][-1] if hemisphere is Hemisphere.LEFT else spans[0][0]
    origin = (
        float(midline),
        float(spans[1][-1] - AC_BEHIND_FRONTAL_POLE * length / spacing[1]),
        float(spans[2][-1] - AC_BELOW_VERTEX * length / spacing[2]),
    )
    return HemisphereFrame(hemisphere, origin, spacing, float(length))
