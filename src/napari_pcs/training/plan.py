"""What a pre-training run was asked for, and how it is read again."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from pydantic import Field, ValidationError

from napari_pcs.errors import ModelError
from napari_pcs.objectives import known_objectives
from napari_pcs.training.config import Config
from napari_pcs.training.stage import PretrainConfig

__all__ = ["PretrainPlan", "load_objective_file", "read_plan"]


class PretrainPlan(Config):
    """All that a run was asked for; `config.json` in its folder."""

    data: Path = Field(title="Data", description="Folder of hemispheres or images.")
    model: Path = Field(title="Model", description="Folder of the new model.")
    init: Path | None = Field(None, title="Begin from", description="Folder of the model that the stage begins from.")
    objective_file: Path | None = Field(None, title="Objective file", description="Python file that defines it.")
    stage: PretrainConfig


def read_plan(run: Path) -> PretrainPlan:
    """Return what a run was asked for.

    Raises
    ------
    ModelError
        If the folder is not that of a pre-training run.
    """
    try:
        content = json.loads((run / "config.json").read_text())
        if isinstance(content, dict) and content.get("objective_file"):
            load_objective_file(Path(content["objective_file"]))
        return PretrainPlan.model_validate(content)
    except (OSError, ValueError, ValidationError) as error:
        msg = f"Run {run.name}: found no config.json of a pre-training run there ({error}), expected one."
        raise ModelError(msg) from error


def load_objective_file(path: Path) -> str:
    """Define the objective of a Python file, and return its name.

    Raises
    ------
    ModelError
        If it is no Python file that runs, or defines no objective, or more than one.
    """
    # Not the stem alone: a file named json.py must not stand in for the library.
    spec = spec_from_file_location(f"objective_file_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        msg = f"{path}: found no Python file, expected one that defines an Objective."
        raise ModelError(msg)
    module = module_from_spec(spec)
    # Classes are looked up by the name of their module when samples are read in other processes.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's file raises
        msg = f"{path.name}: found a Python file that does not run ({type(error).__name__}: {error})."
        raise ModelError(msg) from error
    mine = {kind for kind in vars(module).values() if getattr(kind, "__module__", None) == spec.name}
    names = [name for name, kind in known_objectives().items() if kind in mine]
    if len(names) != 1:
        msg = f"{path.name}: found {len(names)} objectives, expected one subclass of Objective with a name."
        raise ModelError(msg)
    return names[0]
