"""Checkpoints: everything that a run needs to go on as if it had not stopped, in one safetensors file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from napari_pcs.errors import ModelError
from napari_pcs.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

__all__ = ["Position", "read_checkpoint", "write_checkpoint"]

_TASK, _OPTIMISER = "task", "optimiser"


class Position(BaseModel):
    """How far a run has come.

    Attributes
    ----------
    step
        Optimiser steps done.
    losses
        Of the steps of the epoch that is not over yet.
    first_loss, last_loss
        Mean loss of the first and of the last whole epoch.
    best_loss, best_epoch
        What the best epoch was judged by (see `Task.judged`; its training loss, if nobody is held out),
        and its number, counted from 1.
    epochs_since_best
        Whole epochs since then.
    micro_batch
        Samples in memory at a time.
    processes
        That train together: another number would draw other batches.
    seconds, epoch_seconds
        Of the steps of all whole epochs, and of the one that is not over yet, over all sittings.
    skipped
        Files that could not be read: index, name and reason.
    """

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    losses: list[float] = []
    first_loss: float | None = None
    last_loss: float | None = None
    best_loss: float | None = None
    best_epoch: int = 0
    epochs_since_best: int = 0
    micro_batch: int = 0
    processes: int = 1
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    skipped: list[tuple[int, str, str]] = []


def write_checkpoint(
    path: Path, task: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer], position: Position
) -> None:
    """Write a checkpoint atomically: the one before survives whatever happens.

    Raises
    ------
    SessionError
        If the disk is full or the folder read-only.
    """
    tensors = {f"{_TASK}/{name}": t for name, t in task.state_dict().items()}
    for turn, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    tensors[f"{_OPTIMISER}/{turn}/{index}/{name}"] = torch.as_tensor(value)
    content = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_bytes(path, save(content, metadata={"position": position.model_dump_json()}))


def read_checkpoint(path: Path, task: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]) -> Position:
    """Load a checkpoint into a task and its optimisers, and return how far it had come.

    Raises
    ------
    ModelError
        If it is damaged, or of another network or objective; nothing is changed then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            position = Position.model_validate_json((file.metadata() or {}).get("position", ""))
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValidationError) as error:
        msg = f"{path.name}: found no checkpoint that can be read ({error}). Start the run again."
        raise ModelError(msg) from error
    weights = {name.removeprefix(f"{_TASK}/"): t for name, t in tensors.items() if name.startswith(f"{_TASK}/")}
    _require_match(path, weights, task.state_dict())
    task.load_state_dict(weights)
    for turn, optimiser in optimisers.items():
        _restore(optimiser, _states(tensors, f"{_OPTIMISER}/{turn}/"))
    return position


def _states(tensors: Mapping[str, Tensor], prefix: str) -> dict[int, dict[str, Any]]:
    states: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            states.setdefault(int(index), {})[key] = tensor
    return states


def _restore(optimiser: torch.optim.Optimizer, states: dict[int, dict[str, Any]]) -> None:
    content = optimiser.state_dict()
    optimiser.load_state_dict({**content, "state": states})


def _require_match(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    wrong = sorted(
        name for name in found.keys() & expected.keys() if found[name].shape != expected[name].shape
    ) + sorted(found.keys() ^ expected.keys())
    if wrong:
        msg = (
            f"{path.name}: found a checkpoint of another network or objective ({len(wrong)} tensors do not fit,"
            f" such as {', '.join(wrong[:3])}), expected that of this run."
        )
        raise ModelError(msg)
