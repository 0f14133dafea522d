"""One process or many: what they share, through accelerate.

A task's per-sample loss is a mean, so gradients are averaged over the processes. What compares
samples is computed alike in every process from all embeddings; see `objectives.task`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather, reduce
from torch import Tensor

from napari_pcs.errors import ModelError
from napari_pcs.models.device import choose_device, free_memory

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from torch import nn

__all__ = ["Processes"]


class Processes:
    """The processes that train together, and the device of this one.

    Started by `torchrun` or `accelerate launch` there are as many as they say; otherwise there is
    one, on the device asked for.

    Parameters
    ----------
    device
        "auto", "cuda", "mps" or "cpu". Many processes on GPUs take one each.

    Raises
    ------
    ModelError
        If this machine has no such device.
    """

    def __init__(self, device: str = "auto") -> None:
        wanted = choose_device(device)
        self._state = PartialState(cpu=wanted.type == "cpu")
        self.count: int = self._state.num_processes
        self.rank: int = self._state.process_index
        self.local_count = self._local_count(wanted)
        self.device = torch.device(self._state.device) if self.count > 1 else wanted
        if self.device.type != wanted.type:
            msg = f"Found processes on {self.device.type}, expected {wanted.type}. Start again in a new process."
            raise ModelError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the others: a process that ends without it may abort on threads that still wait for them."""
        if self.count > 1:
            self._state.destroy_process_group()

    def _local_count(self, device: torch.device) -> int:
        return self.count if device.type == "cpu" else 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    @property
    def free_memory(self) -> int:
        """Bytes that this process may still use on its device."""
        return free_memory(self.device) // self.local_count

    def gather(self, embedding: Tensor) -> Tensor:
        """Return the embeddings of all processes in order of rank; gradients flow to this one's own."""
        return embedding if self.count == 1 else _Gather.apply(embedding, self)  # type: ignore[no-untyped-call]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes.

        A weight that took no part in one process took part in none: the turn is the same in all.
        """
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = reduce(torch.cat([g.flatten() for g in gradients]), "mean")
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Return the mean of each figure over the processes."""
        if self.count == 1 or not values:
            return values
        # float32: MPS has nothing wider, and these are figures to be told.
        together = reduce(torch.tensor(list(values.values()), dtype=torch.float32, device=self.device), "mean")
        return dict(zip(values, together.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set in any process; all get the same answer."""
        return flag if self.count == 1 else bool(reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def smallest(self, value: int) -> int:
        """Return the smallest of the processes' values."""
        if self.count == 1:
            return value
        return int(gather(torch.tensor([value], device=self.device)).min())

    def share(self, value: Any) -> Any:
        """Return the main process's value in every process."""
        return value if self.count == 1 else broadcast_object_list([value])[0]

    def collect(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the values of all processes, in order of rank."""
        if self.count == 1:
            return values
        from accelerate.utils import gather_object

        return tuple(gather_object(list(values)))

    def synchronise(self, module: nn.Module) -> None:
        """Give every process the main one's weights."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                tensor.copy_(broadcast(tensor.clone()))

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._state.wait_for_everyone()


class _Gather(torch.autograd.Function):
    """All processes' rows; every process computes the same from them, so no gradient need travel.

    Backwards each takes its own rows' gradient, times the number of processes: the mean that
    `average_gradients` takes then is the sum that the chain rule asks for.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, processes: Processes) -> Tensor:
        ctx.rows, ctx.rank, ctx.count = len(embedding), processes.rank, processes.count
        return gather(embedding.contiguous())  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        start = ctx.rank * ctx.rows
        return gradients[0][start : start + ctx.rows] * ctx.count, None
