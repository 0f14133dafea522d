"""What made a file: the content of its JSON sidecar."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from napari_pcs import __version__
from napari_pcs.looked import Looked

__all__ = ["ModelReference", "Provenance", "Software"]


class _Sidecar(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_pascal, populate_by_name=True)


class Software(_Sidecar):
    """The program that wrote the file."""

    name: str = "napari-pcs"
    version: str = __version__


class ModelReference(_Sidecar):
    """A model, by name and by the digest of its weights."""

    name: str
    digest: str


class Provenance(_Sidecar):
    """Origin of a label map, written in BIDS spelling (`Manual`, `Sources`, `EditSeconds`, ...).

    Attributes
    ----------
    manual
        True if a person has corrected or drawn it.
    sources
        Direct parents only, as paths or BIDS URIs.
    editor
        Who corrected it.
    edit_seconds
        Time the case was open for editing, over all sittings.
    model
        The model that made the prediction, or on whose prediction the correction is based.
    partly_done
        True if the annotator has not looked at all of the case: what lies outside `looked_at` is as
        a model left it, and the class is not known.
    looked_at
        Slices that were looked at over all sittings; None where nobody has written them down.
    """

    manual: bool
    hemisphere: str
    sources: tuple[str, ...] = ()
    spatial_reference: str = "orig"
    description: str = ""
    editor: str | None = None
    edit_seconds: float | None = Field(None, ge=0)
    model: ModelReference | None = None
    partly_done: bool = False
    looked_at: Looked | None = None
    software: Software = Software()
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    def sidecar(self) -> dict[str, object]:
        """Return the JSON object for the sidecar."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
