"""One batch forwards and backwards: cut up to fit into memory, shared by processes, told in figures."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from napari_pcs.errors import ModelError
from napari_pcs.models.device import is_out_of_memory
from napari_pcs.objectives.task import Comparison

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from napari_pcs.objectives.task import Batch, Outcome, Task
    from napari_pcs.training.processes import Processes

__all__ = ["OutOfMemoryError", "Passes", "is_out_of_memory"]


class OutOfMemoryError(ModelError):
    """The device has too little memory for what was tried."""


@contextmanager
def _memory_told(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        msg = f"The {device.type} device ran out of memory. Choose a smaller batch or patch, or close other programs."
        raise OutOfMemoryError(msg) from error


class Passes:
    """Passes of batches through a task.

    Parameters
    ----------
    task
        What is trained.
    processes
        That share each batch.
    half
        Compute in bfloat16 where PyTorch deems it safe.
    """

    def __init__(self, task: Task, processes: Processes, *, half: bool) -> None:
        self.task, self.processes, self.half = task, processes, half

    def backward(self, batch: Batch, turn: str, micro_batch: int, *, half: bool | None = None) -> dict[str, float]:
        """Add the gradients of this process's share of a batch; return the loss and its figures.

        The figures are this process's own; the gradients are to be averaged over the processes.
        """
        pieces = _cut(batch, micro_batch)
        half = self.half if half is None else half
        if len(pieces) == 1:
            return self._whole(pieces[0], turn, half=half)
        return (self._compared if self.task.compares else self._summed)(pieces, turn, half=half)

    def judge(self, batch: Batch, turn: str, micro_batch: int) -> dict[str, float]:
        """Return the loss of a batch and its figures, without gradients."""
        with torch.no_grad():
            outcomes = [(self._forward(p, turn, half=self.half), _length(p)) for p in _cut(batch, micro_batch)]
            comparison = self._compare([o for o, _ in outcomes], turn, half=self.half)
        return _told(outcomes, comparison)

    def _whole(self, batch: Batch, turn: str, *, half: bool) -> dict[str, float]:
        with _memory_told(self.processes.device):
            outcome = self._forward(batch, turn, half=half)
            comparison = self._compare([outcome], turn, half=half)
            (_own(outcome) + comparison.loss).backward()  # type: ignore[no-untyped-call]
        return _told([(outcome, 1)], comparison)

    def _summed(self, pieces: list[Batch], turn: str, *, half: bool) -> dict[str, float]:
        total = sum(_length(piece) for piece in pieces)
        outcomes = []
        for piece in pieces:
            with _memory_told(self.processes.device):
                outcome = self._forward(piece, turn, half=half)
                (_own(outcome) * (_length(piece) / total)).backward()  # type: ignore[no-untyped-call]
            outcomes.append((_detached(outcome), _length(piece)))
        return _told(outcomes, _NOTHING)

    def _compared(self, pieces: list[Batch], turn: str, *, half: bool) -> dict[str, float]:
        """Compare all samples though only some are in memory (Gao et al. 2021, gradient caching).

        All embeddings without gradients, the comparison's gradient with respect to them, then each
        piece once more with its share of that gradient.
        """
        total = sum(_length(piece) for piece in pieces)
        with torch.no_grad(), _memory_told(self.processes.device):
            embeddings = [self._forward(piece, turn, half=half).embedding for piece in pieces]
        leaf = torch.cat([e.float() for e in embeddings if e is not None]).requires_grad_()
        comparison = self._compare_all(leaf, turn, half=half)
        comparison.loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None  # noqa: S101  a comparison depends on what it compares
        outcomes = []
        shares = torch.split(leaf.grad, [_length(p) for p in pieces])
        for piece, gradient in zip(pieces, shares, strict=True):
            with _memory_told(self.processes.device):
                outcome = self._forward(piece, turn, half=half)
                assert outcome.embedding is not None  # noqa: S101  it had one a moment ago
                loss = _own(outcome) * (_length(piece) / total) + (outcome.embedding.float() * gradient).sum()
                loss.backward()  # type: ignore[no-untyped-call]
            outcomes.append((_detached(outcome), _length(piece)))
        return _told(outcomes, comparison)

    def _forward(self, batch: Batch, turn: str, *, half: bool) -> Outcome:
        with self._autocast(half=half):
            return self.task(batch, turn)  # type: ignore[no-any-return]

    def _compare(self, outcomes: list[Outcome], turn: str, *, half: bool) -> Comparison:
        embeddings = [o.embedding.float() for o in outcomes if o.embedding is not None]
        return self._compare_all(torch.cat(embeddings), turn, half=half) if embeddings else _NOTHING

    def _compare_all(self, embedding: Tensor, turn: str, *, half: bool) -> Comparison:
        together = self.processes.gather(embedding)
        with self._autocast(half=half):
            return self.task.compare(together, turn)

    def _autocast(self, *, half: bool) -> Any:
        return torch.autocast(self.processes.device.type, torch.bfloat16) if half else nullcontext()


_NOTHING = Comparison(torch.zeros(()))


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _cut(batch: Batch, size: int) -> list[Batch]:
    parts = {name: torch.split(tensor, size) for name, tensor in batch.items()}
    return [dict(zip(parts, piece, strict=True)) for piece in zip(*parts.values(), strict=True)]


def _own(outcome: Outcome) -> Tensor:
    """Return the loss of samples by themselves; none at all counts as zero."""
    if outcome.loss is not None:
        return outcome.loss
    assert outcome.embedding is not None  # noqa: S101  a task has a loss, an embedding or both
    return outcome.embedding.sum() * 0


def _detached(outcome: Outcome) -> Outcome:
    loss = None if outcome.loss is None else outcome.loss.detach()
    return outcome._replace(loss=loss, embedding=None, figures={k: _number(v) for k, v in outcome.figures.items()})


def _number(value: Tensor | float) -> float:
    return float(value.detach()) if isinstance(value, torch.Tensor) else float(value)


def _told(outcomes: list[tuple[Outcome, int]], comparison: Comparison) -> dict[str, float]:
    """Weigh the pieces' figures by their samples; NaN, for "nothing to tell", is left out."""
    names: Mapping[str, None] = dict.fromkeys(name for outcome, _ in outcomes for name in outcome.figures)
    figures = {name: _mean([(_number(o.figures[name]), n) for o, n in outcomes if name in o.figures]) for name in names}
    own = _mean([(0.0 if o.loss is None else _number(o.loss), n) for o, n in outcomes])
    compared = {name: _number(value) for name, value in comparison.figures.items()}
    return {"loss": own + _number(comparison.loss), **figures, **compared}


def _mean(values: list[tuple[float, int]]) -> float:
    known = [(v, n) for v, n in values if not math.isnan(v)]
    return sum(v * n for v, n in known) / sum(n for _, n in known) if known else math.nan
