"""Named rules that turn a length into a class, with their source: data, not code."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_pcs.labels import PcsClass

__all__ = ["DEFAULT_PRESET", "ClassPreset"]


class ClassPreset(BaseModel):
    """Limits between the classes of a paracingulate sulcus.

    A length below `small_from_mm` is *absent*, one of at least `present_from_mm` is *present*, and
    what lies between is *small*.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(title="Preset")
    citation: str = Field(title="Source")
    small_from_mm: float = Field(
        20.0, gt=0, title="Small from", description="Shorter is absent.", json_schema_extra={"unit": "mm"}
    )
    present_from_mm: float = Field(40.0, gt=0, title="Present from", json_schema_extra={"unit": "mm"})
    max_gap_mm: float = Field(
        20.0,
        ge=0,
        title="Longest gap",
        description="Interruptions up to this are bridged.",
        json_schema_extra={"unit": "mm"},
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.present_from_mm <= self.small_from_mm:
            msg = f"present_from_mm ({self.present_from_mm}) must exceed small_from_mm ({self.small_from_mm})"
            raise ValueError(msg)
        return self

    def classify(self, length_mm: float) -> PcsClass:
        """Return the class of a length in mm."""
        if length_mm < self.small_from_mm:
            return PcsClass.ABSENT
        return PcsClass.SMALL if length_mm < self.present_from_mm else PcsClass.PRESENT


DEFAULT_PRESET = ClassPreset(
    name="default",
    citation=(
        "20 mm: shortest rated sulci in 120 people (length range 20.6-110.6 mm left, 20.7-118.7 mm right); "
        "40 mm: customary limit of a prominent sulcus, after Yucel et al. 2001."
    ),
)
