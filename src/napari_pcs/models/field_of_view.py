"""Normalisation of a patch as the part of a hemisphere that it is.

Instance and group normalisation measure mean and variance over all that the network sees. A
hemisphere is predicted in one pass; a patch of it has other moments, so the same weights give other
values there. Before tuning begins both passes can be measured. What one differs by from the other
is stored with a patch and applied after each normalisation: with the weights at the start the patch
then has the values of the whole, and gradients still go through its own moments.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

__all__ = [
    "Moments",
    "PartGroupNorm",
    "PartInstanceNorm3d",
    "as_part",
    "matched",
    "measured",
    "now_and_again",
    "part_norms",
]


class Moments(NamedTuple):
    """What a normalisation subtracts and multiplies by, 1 / sqrt(variance + eps): (batch, groups) each."""

    mean: Tensor
    scale: Tensor


class PartInstanceNorm3d(nn.InstanceNorm3d):
    """Instance normalisation that may be told how the whole differs from the part that it sees."""

    correction: Tensor | None
    """(batch, 2, channels): gain and shift of what was normalised; None where all is seen."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as PyTorch calls it
        """Normalise (batch, channel, x, y, z)."""
        if self.correction is None:
            return super().forward(input)
        return _weighted(_normalised(input, self.correction, self.eps), self.weight, self.bias)


class PartGroupNorm(nn.GroupNorm):
    """Group normalisation that may be told how the whole differs from the part that it sees."""

    correction: Tensor | None
    """(batch, 2, groups): gain and shift of what was normalised; None where all is seen."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise (batch, channel, ...)."""
        if self.correction is None:
            return super().forward(input)
        return _weighted(_normalised(input, self.correction, self.eps), self.weight, self.bias)


PartNorm = PartInstanceNorm3d | PartGroupNorm


def part_norms(network: nn.Module) -> None:
    """Let the normalisations of a network be told of the whole; weights, their names and the results stay.

    Those with running statistics are left: what they do is the same in every field of view.
    """
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__, module.correction = PartInstanceNorm3d, None  # type: ignore[assignment]
        elif type(module) is nn.GroupNorm:
            module.__class__, module.correction = PartGroupNorm, None  # type: ignore[assignment]


@contextmanager
def measured(network: nn.Module) -> Iterator[dict[str, Moments]]:
    """Collect the moments of every such normalisation that is run meanwhile, by the name of its module."""
    found: dict[str, Moments] = {}

    def measure(name: str, norm: PartNorm, x: Tensor) -> None:
        found[name] = _moments(norm, x)

    with _before_each(network, measure):
        yield found


@contextmanager
def matched(network: nn.Module, whole: Mapping[str, Moments]) -> Iterator[dict[str, Tensor]]:
    """Collect what corrects every normalisation of a part that is run meanwhile, by the name of its module.

    With mean m and scale s of the part, M and S of the whole, (x - M) S = (x - m) s S/s + (m - M) S: a gain
    of S/s and a shift of (m - M) S. Neither has the unit of x, so both hold while weights grow or shrink.
    Each is applied at once, since the moments of one layer follow from the values of the one before.

    Parameters
    ----------
    network
        After `part_norms`.
    whole
        Moments of the whole by module.

    Yields
    ------
    dict
        (batch, 2, groups) by module: gain and shift.
    """
    found: dict[str, Tensor] = {}

    def match(name: str, norm: PartNorm, x: Tensor) -> None:
        own, aim = _moments(norm, x), whole[name]
        found[name] = torch.stack([aim.scale / own.scale, (own.mean - aim.mean) * aim.scale], dim=1)
        norm.correction = found[name]

    norms = _norms(network).values()
    with _correcting({norm: norm.correction for norm in norms}), _before_each(network, match):
        yield found


@contextmanager
def as_part(network: nn.Module, told: Mapping[str, Tensor]) -> Iterator[None]:
    """Normalise parts of wholes meanwhile.

    Parameters
    ----------
    network
        After `part_norms`.
    told
        What `matched` found for the samples of the batch. What is not told of goes by its own moments.
    """
    norms = _norms(network)
    with _correcting({norms[name]: correction for name, correction in told.items()}):
        yield


def now_and_again(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts for a pass through a module and for its repetition, by when the corrections may be gone."""
    return nullcontext(), _correcting({norm: norm.correction for norm in _norms(module).values()})


@contextmanager
def _correcting(corrections: Mapping[PartNorm, Tensor | None]) -> Iterator[None]:
    before = {norm: norm.correction for norm in corrections}
    for norm, correction in corrections.items():
        norm.correction = correction
    try:
        yield
    finally:
        for norm, correction in before.items():
            norm.correction = correction


@contextmanager
def _before_each(network: nn.Module, do: Callable[[str, PartNorm, Tensor], None]) -> Iterator[None]:
    """Do something with the input of every such normalisation before it is run."""
    hooks = [
        norm.register_forward_pre_hook(lambda norm, inputs, name=name: do(name, norm, *inputs))
        for name, norm in _norms(network).items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _norms(network: nn.Module) -> dict[str, PartNorm]:
    return {name: module for name, module in network.named_modules() if isinstance(module, PartNorm)}


def _moments(norm: PartNorm, x: Tensor) -> Moments:
    groups = norm.num_groups if isinstance(norm, PartGroupNorm) else x.shape[1]
    exact = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    # Its by-products are what is wanted: var_mean takes three times longer.
    shape = len(x), x.shape[1], exact[0, 0].numel(), groups
    _, mean, scale = torch.native_group_norm(exact, None, None, *shape, norm.eps)
    return Moments(mean, scale)


def _normalised(x: Tensor, correction: Tensor, eps: float) -> Tensor:
    """Return x normalised within its groups and corrected, in one go: batch normalisation has weights of its own."""
    gain, shift = correction.flatten(2).unbind(dim=1)
    sets = x.reshape(1, gain.numel(), -1)
    found = F.batch_norm(sets, None, None, gain.flatten(), shift.flatten(), training=True, eps=eps)
    return found.view(x.shape)


def _weighted(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None or bias is None:
        return x
    shape = (1, -1, *[1] * (x.ndim - 2))
    return torch.addcmul(bias.view(shape), x, weight.view(shape))
