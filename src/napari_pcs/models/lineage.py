"""How a model came to be: one stage of training after another, in `lineage.json` beside its weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from napari_pcs.models.parts import PartName

__all__ = ["Lineage", "Stage"]


class Stage(BaseModel):
    """One training of a model.

    Attributes
    ----------
    name
        Of the model that the stage ended with.
    objective
        What was learnt: an objective, or "tune" with its strategy.
    data
        What from: name of the folder, number of hemispheres or images, and a digest of the list.
    epochs
        That were completed.
    parts
        Parts of the network that were trained.
    digest
        SHA-256 of the weights that the stage ended with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    objective: str
    data: str
    epochs: float
    parts: tuple[PartName, ...]
    digest: str = Field(default="", description="Filled in when the weights are written.")


class Lineage(BaseModel):
    """All stages of a model, the first one first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[Stage, ...] = ()
