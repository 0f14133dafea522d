"""Recipes: named settings for every objective, so that nobody has to begin from nothing."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from napari_pcs.errors import ModelError
from napari_pcs.training.config import Config
from napari_pcs.training.stage import PretrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RECIPES", "Recipe", "merged", "read_recipe", "stage_config"]

RECIPES = ("laptop", "quick", "published")
"""The first one is the default."""


class Recipe(Config):
    """Settings by objective.

    Attributes
    ----------
    cost
        What a run takes.
    notes
        What is unclear in a publication, and what we do about it.
    volumes, images
        Settings of all objectives, for hemispheres and for 2-D images.
    volume_objectives, image_objectives
        What single objectives have otherwise.
    """

    title: str
    summary: str
    cost: str
    notes: tuple[str, ...] = ()
    volumes: dict[str, Any] = Field(default_factory=dict)
    volume_objectives: dict[str, dict[str, Any]] = Field(default_factory=dict)
    images: dict[str, Any] = Field(default_factory=dict)
    image_objectives: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def settings(self, objective: str, spatial_dims: int) -> dict[str, Any]:
        """Return what the recipe says of an objective, as plain JSON."""
        common, own = (
            (self.images, self.image_objectives) if spatial_dims == 2 else (self.volumes, self.volume_objectives)
        )
        return merged({"objective": objective, "settings": {}}, merged(common, own.get(objective, {})))

    def config(self, objective: str, spatial_dims: int = 3) -> PretrainConfig:
        """Return the settings of an objective.

        Raises
        ------
        ModelError
            If there is no such objective.
        """
        return stage_config(self.settings(objective, spatial_dims))


def read_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises
    ------
    ModelError
        If there is none of that name.
    """
    if name not in RECIPES:
        msg = f"Recipe {name}: found none of that name, expected one of: {', '.join(RECIPES)}."
        raise ModelError(msg)
    return Recipe.model_validate(json.loads((files("napari_pcs.recipes") / f"{name}.json").read_text()))


def stage_config(settings: Mapping[str, Any]) -> PretrainConfig:
    """Return checked settings of a stage.

    Raises
    ------
    ModelError
        If a setting is unknown or out of bounds; the message lists them.
    """
    try:
        return PretrainConfig.model_validate(settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        msg = f"Settings of {settings.get('objective')}: found what cannot be ({wrong})."
        raise ModelError(msg) from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes in them; a network of another architecture replaces the whole network."""
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        result[name] = value
        if isinstance(old, dict) and isinstance(value, dict):
            kind = old.get("architecture")
            if value.get("architecture", kind) == kind:
                result[name] = merged(old, value)
    return result
