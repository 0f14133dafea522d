"""Learning skeleton, PCS and class from labelled hemispheres: the task of tuning, and its batches."""

from __future__ import annotations

import math
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from napari_pcs.metrics.overlap import dice
from napari_pcs.models.field_of_view import as_part
from napari_pcs.models.graph import DECODED, FEATURES, evaluate
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.objectives.task import Batch, Outcome, Task
from napari_pcs.training.averaging import PolynomialAverage
from napari_pcs.training.batches import Drawn
from napari_pcs.training.features import NORM, VALUE, Item
from napari_pcs.training.losses import total_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from napari_pcs.models.contract import Segmenter
    from napari_pcs.training.features import FrozenValues
    from napari_pcs.training.labelled import Labelled

__all__ = ["Patches", "Segmentation"]


class Patches:
    """Batches of patches, drawn anew in every round.

    Parameters
    ----------
    values
        Gives the patches.
    draw
        Returns the items of a round, in order.
    held_out
        Cases that judge, as they are, at all of their places.
    batch_size, round_steps
        Patches of a batch, and batches of a round.
    """

    def __init__(
        self,
        values: FrozenValues,
        draw: Callable[[int], Sequence[Item]],
        held_out: Sequence[Labelled],
        batch_size: int,
        round_steps: int,
    ) -> None:
        self._values, self._draw, self._held_out, self._batch_size = values, draw, held_out, batch_size
        self.steps_per_epoch = round_steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Drawn]:
        """Yield the batches of a round, from a step of it on."""
        coming, waiting = map(self._values.patch, self._draw(epoch)), deque[Batch]()
        for step in range(self.steps_per_epoch):
            alike = self._alike(coming, waiting)
            if step >= first_step:
                yield Drawn(_batch(alike))

    def validation(self) -> Iterator[Drawn]:
        """Yield every patch of the held-out cases."""
        for case in self._held_out:
            items = [Item(case, 0, place) for place in range(self._values.count(case, 0))]
            for first in range(0, len(items), self._batch_size):
                yield Drawn(_batch([self._values.patch(item) for item in items[first : first + self._batch_size]]))

    def _alike(self, coming: Iterator[Batch], waiting: deque[Batch]) -> list[Batch]:
        """Return the patches of the next batch, which are all of one size; others wait for a later one.

        Hemispheres narrower than a patch give smaller ones, and whole hemispheres differ in size; a
        round may end with the last of them alone in its batch.
        """
        taken: list[Batch] = []
        passed: list[Batch] = []
        while len(taken) < self._batch_size:
            patch = waiting.popleft() if waiting else next(coming, None)
            if patch is None:
                break
            alike = not taken or patch["targets"].shape == taken[0]["targets"].shape
            (taken if alike else passed).append(patch)
        waiting.extendleft(reversed(passed))
        return taken


def _batch(patches: Sequence[Batch]) -> Batch:
    return {name: torch.cat([patch[name] for patch in patches]) for name in patches[0]}


class Segmentation(Task):
    """The first paper's tuning loss (eq. 9) on patches of hemispheres.

    The class belongs to the hemisphere, of which a patch is a part. So the class head reads the
    patch's PCS volume plus that of the labels beyond it, and the patch's mean features plus what the
    hemisphere's were above them before tuning; for a patch that is all of the hemisphere both are
    its own.

    Parameters
    ----------
    network
        With gradients on where it is to be trained.
    trained
        Modules that train; all others stay in evaluation mode, so that their statistics stay too.

    Attributes
    ----------
    average
        Mean of the weights so far: what is judged, and worth keeping.
    """

    def __init__(self, network: Segmenter, trained: Iterable[nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.average = PolynomialAverage(network.parameters())
        self._trained = list(trained)
        self._judges = False

    def train(self, mode: bool = True) -> Self:
        """Set what trains to training mode, everything else to evaluation mode; in this the mean weights judge."""
        super().train(False)
        self._judges = not mode
        for module in self._trained:
            module.train(mode)
        return self

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn
        """Segment and classify; tell the Dice of the thresholded labels, NaN where there is no reference."""
        with self.average.applied() if self._judges else nullcontext():
            return self._outcome(batch)

    def after_step(self) -> None:
        """Count the new weights towards their mean."""
        self.average.add()

    def judged(self, loss: float, figures: Mapping[str, float | None]) -> float:
        """Return 1 - the mean of the labels' Dice, by which models are compared; the loss where there is none.

        The class of a few held-out hemispheres, of which a loss consists as well, would often outweigh it.
        """
        known = [score for score in figures.values() if score is not None]
        return 1 - math.fsum(known) / len(known) if known else loss

    def _outcome(self, batch: Batch) -> Outcome:
        known = {name: value.float() for name, value in _named(batch, VALUE).items()}
        with as_part(self.network, _named(batch, NORM)):
            values = evaluate(self.network.nodes(), known, (DECODED, FEATURES))
        logits, features = self.network.segment(values[DECODED], values[FEATURES])
        probabilities = channel_probabilities(logits)
        targets, looked = batch["targets"].float(), batch["looked"] > 0
        volume = batch["volumes"] + probabilities[:, 1].sum(dim=(1, 2, 3))
        classes = self.network.classify(features + batch["offsets"], volume)
        loss = total_loss(logits, targets, classes, batch["class_index"], looked)
        return Outcome(loss, figures=_scores(probabilities.detach(), targets, looked))


def _named(batch: Batch, prefix: str) -> Batch:
    return {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}


def _scores(probabilities: torch.Tensor, targets: torch.Tensor, looked: torch.Tensor) -> dict[str, float]:
    shown, truth = probabilities.float().cpu().numpy(), targets.cpu().numpy() > 0
    seen = looked.cpu().numpy()
    scores = np.array([_dice(p * s, t & s) for p, t, s in zip(shown, truth, seen, strict=True)])
    return {"dice_skeleton": _mean(scores[:, 0]), "dice_pcs": _mean(scores[:, 1])}


def _dice(probabilities: NDArray[np.float32], targets: NDArray[np.bool_]) -> list[float]:
    """Dice of the labels that these probabilities give: skeleton, PCS."""
    skeleton = probabilities[0] >= 0.5
    pcs = skeleton & (probabilities[1] >= 0.5 * probabilities[0])
    found = [dice(skeleton, targets[0]), dice(pcs, targets[1])]
    return [math.nan if value is None else value for value in found]


def _mean(scores: NDArray[np.float64]) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else math.nan
