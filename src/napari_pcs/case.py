"""A case: one hemisphere with its images and its label maps by role."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.errors import InputError
from napari_pcs.labels import Label
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_pcs.bids import CaseKey
    from napari_pcs.commissures import Commissures
    from napari_pcs.provenance import Provenance

__all__ = ["MORPHOLOGIST_SKELETON", "Case", "LabelRole", "LabelVolume", "check_labels", "is_morphologist_skeleton"]

MORPHOLOGIST_SKELETON = frozenset({10, 30, 35, 40, 50, 60, 70, 80, 100, 110, 120})
"""Values of the skeleton's voxels in Morphologist's `Lskeleton_*`; 0 (inside) and 11 (outside) are not skeleton."""
_MORPHOLOGIST_OUTSIDE = 11


class LabelRole(StrEnum):
    """What a label map is. A prediction is never shown as a correction, a reference never overwritten.

    A proposal is made by rule, without a network and without anybody having looked.
    """

    REFERENCE = "ref"
    PROPOSED = "prop"
    PREDICTED = "pred"
    CORRECTED = "corr"


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """A label map (uint8, axes (x, y, z) in RAS order) and what made it."""

    data: NDArray[np.uint8]
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class Case:
    """One hemisphere.

    Attributes
    ----------
    key
        Subject, session and side.
    tissue
        Grey/white map: 0 outside and fluid, 1 grey, 2 white (uint8), on the image's own grid.
    image
        What is shown under the labels: a T1 on the same grid, or the tissue map itself.
    labels
        Label maps by role.
    commissures
        The scan's stereotaxic frame; None as long as nobody knows it.
    """

    key: CaseKey
    tissue: Volume
    image: Volume
    labels: Mapping[LabelRole, LabelVolume] = field(default_factory=lambda: MappingProxyType({}))
    commissures: Commissures | None = None

    def __post_init__(self) -> None:
        check_same_grid(self.tissue, self.image, "an image for display")

    def with_labels(self, role: LabelRole, data: NDArray[Any], provenance: Provenance) -> Case:
        """Return the case with one label map added or replaced.

        Raises
        ------
        InputError
            If the map is on another grid, has unknown values, or would replace a reference.
        """
        if role is LabelRole.REFERENCE and role in self.labels:
            raise InputError(
                found="a second reference", expected="one that is never overwritten", advice="Load the case again."
            )
        if data.shape != self.tissue.shape:
            raise InputError(found=f"labels of shape {data.shape}", expected=f"the image's shape {self.tissue.shape}")
        labels = {**self.labels, role: LabelVolume(check_labels(data), provenance)}
        return replace(self, labels=MappingProxyType(labels))

    @property
    def truth(self) -> tuple[LabelRole, LabelVolume] | None:
        """The correction if there is one, else the reference, else None."""
        for role in (LabelRole.CORRECTED, LabelRole.REFERENCE):
            if role in self.labels:
                return role, self.labels[role]
        return None


def check_labels(data: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a label map as uint8.

    Raises
    ------
    InputError
        If it holds values that the label table does not have.
    """
    found = np.unique(data)
    known = {int(label) for label in Label}
    if is_morphologist_skeleton(found):
        raise InputError(
            found="a skeleton by Morphologist (11 outside, 30 bottom, 60 simple surface, ...)",
            expected=f"a label map with values among {sorted(known)}",
            advice="It does not say which folds are PCS. Give its subject folder, or the grey/white map beside it:"
            " the skeleton then comes along as a reference.",
        )
    if not set(found.tolist()) <= known:
        shown = ", ".join(f"{v:g}" for v in found[:8]) + (", ..." if len(found) > 8 else "")
        raise InputError(
            found=f"values {shown}",
            expected=f"a label map with values among {sorted(known)}",
            advice="1 is skeleton and 2 is PCS; a raw skeleton or an image is not a label map.",
        )
    return data.astype(np.uint8, copy=False)


def is_morphologist_skeleton(values: NDArray[Any]) -> bool:
    """Say whether the values of a map are those of a skeleton by Morphologist."""
    found = set(values.tolist())
    return (
        _MORPHOLOGIST_OUTSIDE in found
        and bool(found & MORPHOLOGIST_SKELETON)
        and found
        <= {
            0,
            _MORPHOLOGIST_OUTSIDE,
            *MORPHOLOGIST_SKELETON,
        }
    )
