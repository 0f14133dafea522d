"""The label table, the hemispheres and the classes of the paracingulate sulcus."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple

__all__ = ["LABELS", "Hemisphere", "Label", "LabelEntry", "PcsClass"]


class Hemisphere(StrEnum):
    """Side of the brain; models see left hemispheres, right ones are mirrored on the way in."""

    LEFT = "L"
    RIGHT = "R"


class Label(IntEnum):
    """Values of a label map. PCS lies within the skeleton: a skeleton mask is `labels >= 1`."""

    BACKGROUND = 0
    SKELETON = 1
    PCS = 2
    CINGULATE = 3
    INTRALIMBIC = 4


class PcsClass(StrEnum):
    """Class of a hemisphere by the length of its paracingulate sulcus; `AMBIGUOUS` is a rater's word."""

    ABSENT = "absent"
    SMALL = "small"
    PRESENT = "present"
    AMBIGUOUS = "ambiguous"

    @classmethod
    def measured(cls) -> tuple[PcsClass, PcsClass, PcsClass]:
        """Return the three classes that a length or a network can give, shortest first."""
        return cls.ABSENT, cls.SMALL, cls.PRESENT


class LabelEntry(NamedTuple):
    """One row of the label table: what a value is called and how it is drawn."""

    label: Label
    name: str
    abbreviation: str
    color: str


LABELS: tuple[LabelEntry, ...] = (
    LabelEntry(Label.BACKGROUND, "background", "BG", "#00000000"),
    LabelEntry(Label.SKELETON, "sulcal skeleton", "SKEL", "#4cc9f0"),
    LabelEntry(Label.PCS, "paracingulate sulcus", "PCS", "#f72585"),
    LabelEntry(Label.CINGULATE, "cingulate sulcus", "CS", "#ffd166"),
    LabelEntry(Label.INTRALIMBIC, "intralimbic sulcus", "ILS", "#80ed99"),
)
