"""The model that an adapter changes, found without loading any of it (or torch)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from napari_pcs.errors import ModelError
from napari_pcs.models.folders import list_models

if TYPE_CHECKING:
    from pathlib import Path

    from napari_pcs.models.folders import ModelFolder

__all__ = ["find_base", "require_in_reach"]


def find_base(model: ModelFolder, folder: Path | None = None) -> ModelFolder:
    """Return the model that an adapter changes, by its digest; its name is only the first to be tried.

    Parameters
    ----------
    model
        An adapter.
    folder
        Where to look besides the shipped models; beside the adapter if None.

    Raises
    ------
    ModelError
        If it is not there, or was altered.
    """
    base, folder = model.base, folder or model.path.parent
    if base is None:
        msg = f"Model {model.name}: found a model with all weights of its own, expected an adapter."
        raise ModelError(msg)
    others = [other for other in list_models(folder) if other.path != model.path]
    for other in sorted(others, key=lambda other: other.name != base.name):
        with suppress(ModelError):  # a damaged neighbour is not the base
            if other.digest == base.digest:
                return other
    altered = "".join(f", but one of that name with other weights in {o.path}" for o in others if o.name == base.name)
    msg = (
        f"Model {model.name}: found no base {base.name} with digest {base.digest[:12]} in {folder} or among the"
        f" shipped models{altered}, expected the model that this adapter was tuned on. Import or copy that one first."
    )
    raise ModelError(msg)


def require_in_reach(base: ModelFolder, folder: Path) -> None:
    """Refuse a base that an adapter in a folder would not be found with, before anything is tuned.

    Parameters
    ----------
    base
        The model to be adapted.
    folder
        Where the adapter is to lie.

    Raises
    ------
    ModelError
        If it is neither shipped nor in the folder.
    """
    for other in list_models(folder):
        with suppress(ModelError):
            if other.digest == base.digest:
                return
    msg = (
        f"Model {base.name}: found it in {base.path.parent}, expected the base of an adapter beside it in {folder} or"
        " among the shipped models. Copy that model there, or choose a strategy that saves all weights."
    )
    raise ModelError(msg)
