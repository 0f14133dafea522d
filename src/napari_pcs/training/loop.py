"""The training loop: one optimiser step per hemisphere, told as it happens."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_pcs.errors import CancelledError, ModelError
from napari_pcs.metrics.overlap import dice
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.interrupt import interruptible
from napari_pcs.strategies import trained_state
from napari_pcs.training.events import Step
from napari_pcs.training.losses import total_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR
    from napari_pcs.stop import StopToken
    from napari_pcs.training.config import TuneConfig

__all__ = ["Example", "optimise"]


@dataclass(frozen=True)
class Example:
    """One labelled hemisphere as the network sees it.

    Attributes
    ----------
    name
        Case it comes from.
    image
        (1, channel, x, y, z), padded to a multiple of 32.
    targets
        (1, 2, x, y, z): skeleton, PCS.
    class_index
        (1,): class of the hemisphere, from the length of the labelled PCS.
    """

    name: str
    image: Tensor
    targets: Tensor
    class_index: Tensor


def optimise(
    network: MultiTaskSwinUNETR,
    examples: Sequence[Example],
    config: TuneConfig,
    device: torch.device,
    stop: StopToken,
    keep: Callable[[int, dict[str, Tensor]], None],
) -> Iterator[Step]:
    """Train what is not frozen, and hand the best weights so far to `keep`.

    Best is the epoch with the lowest mean training loss. When `stop` is set the loop ends within a
    layer's time; if no epoch was complete, the weights after the last complete step are kept.

    Raises
    ------
    ModelError
        If the loss or a gradient is not finite, or the device runs out of memory.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    total = config.epochs * len(examples)
    # A cosine to a tenth: a handful of epochs leaves no room for a step schedule.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.55 + 0.45 * math.cos(math.pi * s / total))
    rng = np.random.default_rng(config.seed)
    lowest, kept, done = math.inf, False, 0
    try:
        for epoch in range(config.epochs):
            losses = []
            for i in rng.permutation(len(examples)):
                start = time.perf_counter()
                loss, scores = _step(network, examples[i], optimizer, device, stop)
                schedule.step()
                losses.append(loss)
                done += 1
                yield Step(
                    step=done,
                    epoch=epoch + 1,
                    loss=loss,
                    dice_skeleton=scores[0],
                    dice_pcs=scores[1],
                    seconds=time.perf_counter() - start,
                )
            if np.mean(losses) < lowest:
                lowest, kept = float(np.mean(losses)), True
                keep(done, trained_state(network))
    except CancelledError:
        if done and not kept:
            keep(done, trained_state(network))
    except torch.OutOfMemoryError as error:
        msg = f"The {device.type} device ran out of memory while tuning; close other programs or choose the CPU."
        raise ModelError(msg) from error


def _step(
    network: MultiTaskSwinUNETR,
    example: Example,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    stop: StopToken,
) -> tuple[float, list[float | None]]:
    targets = example.targets.to(device)
    optimizer.zero_grad(set_to_none=True)
    with interruptible(network, stop):
        logits, features = network(example.image.to(device))
        probabilities = channel_probabilities(logits)
        classes = network.classify(features, probabilities[:, 1].sum(dim=(1, 2, 3)))
        loss = total_loss(logits, targets, classes, example.class_index.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
    value = float(loss.detach())
    finite = all(
        bool(p.grad.isfinite().all()) for g in optimizer.param_groups for p in g["params"] if p.grad is not None
    )
    if not (math.isfinite(value) and finite):
        msg = f"Tuning met a loss or gradient that is not finite on {example.name}; lower the learning rate."
        raise ModelError(msg)
    optimizer.step()
    return value, _dice(probabilities.detach().cpu().numpy()[0], example.targets.numpy()[0] > 0)


def _dice(probabilities: NDArray[np.float32], targets: NDArray[np.bool_]) -> list[float | None]:
    """Dice of the labels that these probabilities give: skeleton, PCS."""
    skeleton = probabilities[0] >= 0.5
    pcs = skeleton & (probabilities[1] >= 0.5 * probabilities[0])
    return [dice(skeleton, targets[0]), dice(pcs, targets[1])]
