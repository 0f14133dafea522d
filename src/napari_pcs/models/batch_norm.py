"""Batch normalisation over the batch of all processes, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

__all__ = ["SharedBatchNorm", "share_batch_norm"]


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation (Ioffe and Szegedy 2015, algorithm 1) whose batch is that of all processes.

    Torch's own `SyncBatchNorm` needs CUDA; this one needs only that `torch.distributed` can sum. Two
    processes with half of the samples each, or shares of any size, give the output, the gradients
    and the running statistics of one process with all of them. In evaluation, and in one process, it
    is torch's batch normalisation. Its weights have the same names.

    While training, every process must pass the layer as often as the others, or they wait for ever.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  torch's own name
        if input.ndim < 2:
            msg = f"Expected (batch, channels, ...), found {input.ndim} dimensions."
            raise ValueError(msg)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """Normalise (batch, channels, ...) over all axes but that of the channels."""
        of_batch = self.training or self.running_mean is None
        if not (of_batch and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        return self._over_all_processes(input)

    def _over_all_processes(self, image: Tensor) -> Tensor:
        axes = [0, *range(2, image.ndim)]
        shape = [1, -1, *[1] * (image.ndim - 2)]
        wide = image.float() if image.dtype in {torch.float16, torch.bfloat16} else image
        here = wide.new_full((1,), wide.numel() // wide.shape[1])
        sums = _sum_over_processes(torch.cat([wide.sum(axes), here]))
        count = float(sums[-1])
        mean = sums[:-1] / count
        # Deviations from the mean of all, in a second round: the mean of the squares minus the square
        # of the mean would lose all digits where the mean is large.
        variance = _sum_over_processes((wide - mean.view(shape)).square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps)
        out = (wide - mean.view(shape)) * scale.view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(image.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Update running statistics as torch does: with the unbiased variance."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # noqa: S101  torch keeps it with the other two
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def share_batch_norm(network: nn.Module) -> None:
    """Replace every batch normalisation inside a network, keeping weights and statistics."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                shared = SharedBatchNorm(
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                shared.load_state_dict(child.state_dict())
                setattr(parent, name, shared.train(child.training))


class _Sum(torch.autograd.Function):
    """Sum over processes: each one's input is in every output, so gradients are summed likewise."""

    @staticmethod
    def forward(_context: FunctionCtx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: FunctionCtx, *gradients: Any) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return cast("Tensor", total)


def _sum_over_processes(value: Tensor) -> Tensor:
    return cast("Tensor", _Sum.apply(value))  # type: ignore[no-untyped-call]
