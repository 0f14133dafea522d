"""How a model came to be: one stage of training after another, in `lineage.json` beside its weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from napari_pcs.models.parts import PartName

__all__ = ["Lineage", "Stage", "lineage_table"]


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

    @property
    def trained_parts(self) -> frozenset[PartName]:
        """Parts that at least one stage has trained."""
        return frozenset(part for stage in self.stages for part in stage.parts)

    def ending_with(self, digest: str) -> Lineage:
        """Return the lineage with the digest of the weights that its last stage ended with.

        Raises
        ------
        ValueError
            If there is no stage.
        """
        if not self.stages:
            msg = "A lineage without stages has no last one."
            raise ValueError(msg)
        *before, last = self.stages
        return Lineage(stages=(*before, last.model_copy(update={"digest": digest})))


def lineage_table(lineage: Lineage) -> str:
    """Return a Markdown table with one stage a row."""
    rows = ["| stage | objective | data | epochs | parts | weights (SHA-256) |", "|---|---|---|---|---|---|"]
    for stage in lineage.stages:
        cells = (
            stage.name,
            stage.objective,
            stage.data,
            f"{stage.epochs:.4g}",
            ", ".join(stage.parts),
            stage.digest or "unknown",
        )
        rows.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
