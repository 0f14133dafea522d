"""Named protocols that turn a length into a class: data with a source, to be copied and edited."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_pcs.errors import InputError
from napari_pcs.labels import Label, PcsClass

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from numpy.typing import NDArray

__all__ = ["DEFAULT_PRESET", "ClassPreset", "find_preset", "preset_names"]


class ClassPreset(BaseModel):
    """A protocol for the paracingulate sulcus.

    A length below `small_from_mm` is *absent*, one of at least `present_from_mm` is *present*, and
    what lies between is *small*.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(title="Preset")
    citation: str = Field(title="Source")
    description: str = Field("", title="What it does")
    unverified: tuple[str, ...] = Field(
        (), title="Not verified", description="What could not be checked against the source's own text."
    )
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
    counts_gaps: bool = Field(True, title="Gaps count", description="Whether bridged gaps are part of the length.")
    prominent_max_gap_mm: float = Field(
        20.0,
        ge=0,
        title="Gaps of a prominent sulcus",
        description="A present sulcus whose gaps add up to more is not prominent.",
        json_schema_extra={"unit": "mm"},
    )
    in_front_of_ac: bool = Field(False, title="Only in front of AC", description="Leave out what lies behind it.")
    above_ac: bool = Field(False, title="Only above AC", description="Leave out what lies below it.")
    identify_first: tuple[Label, ...] = Field((), title="Identify first", description="Sulci to look for before.")
    requires: tuple[Label, ...] = Field((), title="Requires", description="Sulci without which it refuses to measure.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.present_from_mm <= self.small_from_mm:
            msg = f"present_from_mm ({self.present_from_mm}) must exceed small_from_mm ({self.small_from_mm})"
            raise ValueError(msg)
        if not set(self.requires) <= set(self.identify_first):
            msg = "requires must be among identify_first"
            raise ValueError(msg)
        return self

    def classify(self, length_mm: float) -> PcsClass:
        """Return the class of a length in mm."""
        if length_mm < self.small_from_mm:
            return PcsClass.ABSENT
        return PcsClass.SMALL if length_mm < self.present_from_mm else PcsClass.PRESENT

    def prominence(self, length_mm: float, gaps_mm: float) -> Literal["absent", "present", "prominent"]:
        """Return the raters' older word for a length with gaps of this sum."""
        if length_mm < self.small_from_mm:
            return "absent"
        long = length_mm >= self.present_from_mm
        return "prominent" if long and gaps_mm <= self.prominent_max_gap_mm else "present"

    def covers(self, acpc_mm: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Say which points (n, 3), in mm to the right of, in front of and above the AC, it measures."""
        inside = np.ones(len(acpc_mm), dtype=bool)
        if self.in_front_of_ac:
            inside &= acpc_mm[:, 1] >= 0
        if self.above_ac:
            inside &= acpc_mm[:, 2] >= 0
        return inside


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that ship with the package."""
    found = sorted(p.name.removesuffix(".json") for p in _folder().iterdir() if p.name.endswith(".json"))
    return tuple(sorted(found, key=lambda name: name != "default"))


def find_preset(name: str) -> ClassPreset:
    """Return a shipped preset by name, or one's own by the path of its JSON file.

    Raises
    ------
    InputError
        If there is none, or the file does not describe one.
    """
    shipped = name in preset_names()
    path = Path(name)
    if not shipped and not path.is_file():
        raise InputError(
            found=f"no preset {name!r}", expected=f"{', '.join(preset_names())}, or the path of a preset's JSON file"
        )
    text = (_folder() / f"{name}.json").read_bytes() if shipped else path.read_bytes()
    try:
        return ClassPreset.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            found=f"{where}: {first['msg']}",
            expected="a preset",
            advice="Start from a copy: `napari-pcs presets show default`.",
            path=path,
        ) from error


def _folder() -> Traversable:
    return files("napari_pcs.anatomy") / "presets"


DEFAULT_PRESET = find_preset("default")
