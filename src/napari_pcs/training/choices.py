"""What there is to choose from before pre-training, for a form that must not load torch itself.

`python -m napari_pcs.training.choices` prints it as JSON: asking so costs the asker neither time nor
memory, and finds objectives wherever they are registered.
"""

from __future__ import annotations

import sys

from pydantic import BaseModel, ConfigDict

__all__ = ["Choice", "Choices", "known_choices"]


class Choice(BaseModel):
    """Something by the name that the command line knows, and as a person reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str


class Choices(BaseModel):
    """Objectives and recipes.

    Attributes
    ----------
    objectives
        All that are registered.
    recipes
        Named settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objectives: tuple[Choice, ...]
    recipes: tuple[Choice, ...] = ()


def known_choices() -> Choices:
    """Return what there is; loads torch and every objective."""
    from napari_pcs.objectives import known_objectives
    from napari_pcs.training.recipes import RECIPES, read_recipe

    return Choices(
        objectives=tuple(Choice(name=name, title=o.title) for name, o in known_objectives().items()),
        recipes=tuple(Choice(name=name, title=read_recipe(name).title) for name in RECIPES),
    )


if __name__ == "__main__":
    sys.stdout.write(known_choices().model_dump_json() + "\n")
