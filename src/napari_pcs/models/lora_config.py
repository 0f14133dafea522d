"""Settings of low-rank adapters, without what implements them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LoraConfig"]


class LoraConfig(BaseModel):
    """Low-rank pairs beside frozen weights (Hu et al. 2022)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(8, ge=1, le=256, title="Rank", description="Of each pair; the number of weights grows with it.")
    alpha: float = Field(
        16,
        gt=0,
        le=1024,
        title="Alpha",
        description="The pairs' product is scaled by alpha / rank (by its root: rsLoRA).",
    )
    dropout: float = Field(0, ge=0, lt=1, title="Dropout", description="Share of the inputs of the pairs left out.")
    rslora: bool = Field(
        False, title="rsLoRA", description="Scale by alpha / sqrt(rank), which suits large ranks (Kalajdzievski 2023)."
    )
    dora: bool = Field(
        False, title="DoRA", description="Train the length of each weight's columns apart (Liu et al. 2024); slower."
    )
    convolutions: bool = Field(
        False, title="Convolutions", description="Pairs for the encoder's convolutions too; many more weights."
    )
