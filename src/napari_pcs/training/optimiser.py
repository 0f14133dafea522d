"""Optimisers, and the learning rate of every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from napari_pcs.training.config import LoopConfig, OptimiserConfig

__all__ = ["build_optimiser", "learning_rate"]


def build_optimiser(parameters: Iterable[nn.Parameter], config: OptimiserConfig) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name; the learning rate is set before every step."""
    rate, decay = config.learning_rate, config.weight_decay
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, rate, betas=(config.momentum, 0.999), weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, rate, betas=(config.momentum, 0.999), weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(parameters, rate, momentum=config.momentum, weight_decay=decay)


def learning_rate(config: LoopConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0.

    A function of the step alone, so that a resumed run needs no schedule's state. After a linear
    warm-up, *step* multiplies the rate by `factor` every `step_epochs`, and *cosine* leads it to
    `factor` of the rate at the last step (Loshchilov & Hutter 2017, eq. 5, without restarts).
    """
    schedule, rate = config.schedule, config.optimiser.learning_rate
    warm = schedule.warmup_epochs * steps_per_epoch
    if step < warm:
        return rate * (step + 1) / (warm + 1)
    match schedule.name:
        case "constant":
            return rate
        case "step":
            return float(rate * schedule.factor ** (step // steps_per_epoch // schedule.step_epochs))
        case "cosine":
            done = (step - warm) / max(1.0, config.epochs * steps_per_epoch - warm)
            return rate * (schedule.factor + (1 - schedule.factor) * 0.5 * (1 + math.cos(math.pi * done)))
