"""What the one training loop trains: a loss over a batch, in a form that many devices can share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Batch", "Comparison", "Outcome", "Task"]

Batch = dict[str, Tensor]
"""Tensors by name, each with the samples along its first axis."""


class Outcome(NamedTuple):
    """What a task says of a batch whose samples it looks at one by one.

    Attributes
    ----------
    loss
        Scalar: mean over the samples; None if all of the loss is in `Task.compare`.
    embedding
        (batch, ...): what `Task.compare` needs to know of each sample; None if it has nothing to compare.
    figures
        Scalars to be told, each a mean over the samples; not trained on.
    """

    loss: Tensor | None
    embedding: Tensor | None = None
    figures: Mapping[str, Tensor | float] = {}


class Comparison(NamedTuple):
    """A loss that compares the samples of a batch with one another, and its figures."""

    loss: Tensor
    figures: Mapping[str, Tensor | float] = {}


class Task(nn.Module, ABC):
    """A loss with everything that it trains.

    A loss has two parts. `forward` looks at each sample by itself: its gradient over a batch is the
    mean over smaller batches, on however many devices. `compare` sees one embedding of every sample
    of the whole batch, of all devices, and computes the same on each of them; projectors and other
    heads whose normalisation looks across samples belong there. Kept apart like this, two
    processes, or a batch cut up to fit into memory, give the gradients of one large batch.

    Attributes
    ----------
    compares
        Whether `forward` returns embeddings for `compare`; a batch then has at least two samples.
    """

    compares: ClassVar[bool] = False

    def turns(self, epoch: int) -> tuple[str, ...]:  # noqa: ARG002  most tasks have one turn in every epoch
        """Return whose turn it is in each step of an epoch (counted from 0), in order.

        Each turn has weights and an optimiser of its own.
        """
        return ("main",)

    def all_turns(self) -> tuple[str, ...]:
        """Return every turn there ever is; the last one's loss judges held-out samples."""
        return ("main",)

    def parameters_of(self, turn: str) -> list[nn.Parameter]:  # noqa: ARG002  see `turns`
        """Return the weights that a turn trains."""
        return [p for p in self.parameters() if p.requires_grad]

    @abstractmethod
    def forward(self, batch: Batch, turn: str = "main") -> Outcome:
        """Look at each sample of a batch by itself."""

    def compare(self, embedding: Tensor, turn: str = "main") -> Comparison:
        """Compare the samples of the whole batch; called if `forward` returned embeddings.

        Parameters
        ----------
        embedding
            (batch of all devices, ...): in the order of the samples.
        """
        raise NotImplementedError(type(self).__name__, embedding.shape, turn)

    def judged(self, loss: float, figures: Mapping[str, float | None]) -> float:  # noqa: ARG002  most go by the loss
        """Return by what an epoch is compared with others, the lower the better, from means over held-out samples."""
        return loss

    def before_step(self, epoch: int) -> None:
        """Change gradients before the optimiser uses them; for example freeze a part for some epochs."""

    def after_step(self) -> None:
        """Bring weights back to where they must be; for example onto the unit sphere."""
