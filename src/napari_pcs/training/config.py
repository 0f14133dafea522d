"""Settings of a tuning run: the form in the GUI, the options of the command line and the JSON on disk."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["TuneConfig"]


class TuneConfig(BaseModel):
    """How to tune a model on corrected cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Literal["top"] = Field(
        "top", title="Strategy", description="top: the last 10 % of the weights and the heads; all else stays as it is."
    )
    epochs: int = Field(5, ge=1, le=1000, title="Epochs", description="Passes over the corrected cases.")
    learning_rate: float = Field(
        1e-3, gt=0, le=0.1, title="Learning rate", description="Adam's step size; falls to a tenth along a cosine."
    )
    weight_decay: float = Field(1e-4, ge=0, le=0.1, title="Weight decay", description="As in the first paper.")
    held_out_share: float = Field(
        0.2,
        ge=0,
        le=0.5,
        title="Held out",
        description="Share of the people kept out of training to judge the result; at least one if there are two.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, title="Seed", description="Decides order and split.")
