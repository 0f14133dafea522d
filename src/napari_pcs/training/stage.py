"""Settings of one stage of pre-training."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializeAsAny, model_validator

from napari_pcs.models.networks import AnyNetworkConfig
from napari_pcs.objectives import Objective, ObjectiveConfig, find_objective
from napari_pcs.training.config import Config, LoopConfig

__all__ = ["PretrainConfig"]


class PretrainConfig(Config):
    """One stage of pre-training: what is learnt, by which network, from which patches."""

    objective: str = Field(title="Objective", description="Name of the objective.")
    settings: SerializeAsAny[ObjectiveConfig] = Field(title="Settings", description="Of the objective.")
    network: AnyNetworkConfig = Field(title="Network", description="Not used where a stage begins from a model.")
    patch: tuple[int, ...] = Field(
        (64, 64, 64), min_length=2, max_length=3, title="Patch", description="Voxels of 1 mm, or pixels, per side."
    )
    patches_per_hemisphere: int = Field(
        1, ge=1, le=1000, title="Patches", description="Drawn from each hemisphere in an epoch."
    )
    held_out_share: float = Field(
        0.1, ge=0, le=0.5, title="Held out", description="Share of the people that only the validation loss sees."
    )
    unreadable_share: float = Field(
        0.05, ge=0, le=1, title="Unreadable", description="Largest share of files that may be skipped as unreadable."
    )
    picture_epochs: int = Field(10, ge=1, le=100_000, title="Pictures", description="Epochs between two pictures.")
    loop: LoopConfig = LoopConfig()

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_objective(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("settings", {}), dict) and "objective" in data:
            settings = find_objective(data["objective"]).config_class.model_validate(data.get("settings", {}))
            return {**data, "settings": settings}
        return data

    @property
    def objective_class(self) -> type[Objective]:
        """Class of the objective."""
        return find_objective(self.objective)
