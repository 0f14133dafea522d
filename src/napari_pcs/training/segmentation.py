"""Learning skeleton, PCS and class from labelled hemispheres: the task of tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from napari_pcs.metrics.overlap import dice
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.objectives.task import Batch, Outcome, Task
from napari_pcs.training.batches import Drawn
from napari_pcs.training.losses import total_loss

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from napari_pcs.models.contract import Segmenter

__all__ = ["Example", "Examples", "Segmentation"]


@dataclass(frozen=True)
class Example:
    """One labelled hemisphere as the network sees it.

    Attributes
    ----------
    name
        Case it comes from.
    image
        (1, channel, x, y, z), padded to what the network can halve.
    targets
        (1, 2, x, y, z): skeleton, PCS.
    class_index
        (1,): class of the hemisphere, from the length of the labelled PCS.
    """

    name: str
    image: Tensor
    targets: Tensor
    class_index: Tensor


class Examples:
    """Batches of one hemisphere each: they differ in size.

    Parameters
    ----------
    examples
        All that there are to learn from.
    seed
        Decides the order within each epoch.
    """

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        self._examples, self._seed = examples, seed
        self.steps_per_epoch = len(examples)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Drawn]:
        """Yield every example once, in an order of this epoch's own."""
        for i in np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))[first_step:]:
            example = self._examples[i]
            yield Drawn({"image": example.image, "targets": example.targets, "class_index": example.class_index})

    def validation(self) -> Iterator[Drawn]:
        """Yield nothing: held-out cases judge by whole predictions, once before and once after."""
        yield from ()


class Segmentation(Task):
    """The first paper's tuning loss (eq. 9) over whole hemispheres.

    Parameters
    ----------
    network
        With gradients on where it is to be trained.
    trained
        Modules that train; all others stay in evaluation mode, so that their statistics stay too.
    """

    def __init__(self, network: Segmenter, trained: Iterable[nn.Module]) -> None:
        super().__init__()
        self.network = network
        self._trained = list(trained)

    def train(self, mode: bool = True) -> Self:
        """Set what trains to training mode, everything else to evaluation mode."""
        super().train(False)
        for module in self._trained:
            module.train(mode)
        return self

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn
        """Segment and classify; tell the Dice of the thresholded labels, NaN where there is no reference."""
        logits, features = self.network(batch["image"])
        probabilities = channel_probabilities(logits)
        classes = self.network.classify(features, probabilities[:, 1].sum(dim=(1, 2, 3)))
        loss = total_loss(logits, batch["targets"], classes, batch["class_index"])
        shown, truth = probabilities.detach().float().cpu().numpy(), batch["targets"].cpu().numpy() > 0
        scores = np.array([_dice(p, t) for p, t in zip(shown, truth, strict=True)])
        return Outcome(loss, figures={"dice_skeleton": _mean(scores[:, 0]), "dice_pcs": _mean(scores[:, 1])})


def _dice(probabilities: NDArray[np.float32], targets: NDArray[np.bool_]) -> list[float]:
    """Dice of the labels that these probabilities give: skeleton, PCS."""
    skeleton = probabilities[0] >= 0.5
    pcs = skeleton & (probabilities[1] >= 0.5 * probabilities[0])
    found = [dice(skeleton, targets[0]), dice(pcs, targets[1])]
    return [math.nan if value is None else value for value in found]


def _mean(scores: NDArray[np.float64]) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else math.nan
