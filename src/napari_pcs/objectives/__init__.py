"""Objectives; every module of this package is imported, so that what it defines is known."""

from importlib import import_module
from pkgutil import iter_modules

from napari_pcs.objectives.base import Objective, ObjectiveConfig, find_objective, known_objectives

__all__ = ["Objective", "ObjectiveConfig", "find_objective", "known_objectives"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
