"""MONAI's denoising U-Net as named pieces: its residual blocks, with their attention, and changes of scale."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from monai.networks.nets.diffusion_model_unet import SpatialTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from napari_pcs.models.field_of_view import now_and_again
from napari_pcs.models.graph import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from monai.networks.nets import DiffusionModelUNet

__all__ = ["BOTTLENECK", "ENTRY", "MIDDLE", "Blocks", "Told", "way_down", "way_up"]

ENTRY, MIDDLE, BOTTLENECK = "entry", "middle", "bottleneck"
"""Names of what the first convolution and the middle's first and second block compute."""


class Told(NamedTuple):
    """What every block is told besides the image.

    Attributes
    ----------
    time
        (batch, channels): the embedded time step.
    condition
        (batch, tokens, channels), or None for a network that takes no conditions.
    """

    time: Tensor
    condition: Tensor | None


class Blocks(NamedTuple):
    """Where the network lies and how its blocks are run.

    Attributes
    ----------
    network
        MONAI's.
    prefix
        Name of that network within the one that it is part of, with a dot at the end.
    told
        What the blocks are told, from the value that they are to be run on.
    told_by
        Names of the modules that time and condition come from.
    again
        Whether blocks are computed once more in the backward pass.
    """

    network: DiffusionModelUNet
    prefix: str
    told: Callable[[Tensor], Told]
    told_by: tuple[str, str]
    again: bool

    def residual(
        self, name: str, inputs: tuple[str, ...], stride: int, resnet: str, attention: str | None = None
    ) -> Node:
        """Return the node of one residual block, and of the attention that follows it."""
        net, time, condition = self.network, *self.told_by
        attends = None if attention is None else net.get_submodule(attention)
        modules = [self.prefix + resnet, time]
        if attention is not None:
            modules.append(self.prefix + attention)
        if isinstance(attends, SpatialTransformer):
            modules.append(condition)
        run = partial(_residual, self, net.get_submodule(resnet), attends)
        return Node(name, inputs, tuple(modules), stride, run)

    def change(self, name: str, inputs: tuple[str, ...], stride: int, module: str) -> Node:
        """Return the node that halves or doubles the sides."""
        run = partial(_change, self, self.network.get_submodule(module))
        return Node(name, inputs, (self.prefix + module,), stride, run)


def way_down(blocks: Blocks) -> Iterator[Node]:
    """Yield the nodes from the first convolution's output (`ENTRY`) to the `BOTTLENECK`.

    The way up reads all of them but `MIDDLE`.
    """
    last = ENTRY
    for level, block in enumerate(blocks.network.down_blocks):
        stride, at = 2**level, f"down_blocks.{level}"
        for i in range(len(block.resnets)):
            attention = f"{at}.attentions.{i}" if hasattr(block, "attentions") else None
            node = blocks.residual(f"down{stride}_{i}", (last,), stride, f"{at}.resnets.{i}", attention)
            last = node.name
            yield node
        if block.downsampler is not None:
            node = blocks.change(f"halved{2 * stride}", (last,), 2 * stride, f"{at}.downsampler")
            last = node.name
            yield node
    yield blocks.residual(MIDDLE, (last,), stride, "middle_block.resnet_1", "middle_block.attention")
    yield blocks.residual(BOTTLENECK, (MIDDLE,), stride, "middle_block.resnet_2")


def way_up(blocks: Blocks, down: list[str]) -> Iterator[Node]:
    """Yield the nodes from the `BOTTLENECK` back to full resolution.

    Parameters
    ----------
    blocks
        The network's.
    down
        Names of what the way down computes, with `ENTRY`; each block reads the deepest that is left.
    """
    last, left = BOTTLENECK, [name for name in down if name not in (MIDDLE, BOTTLENECK)]
    levels = len(blocks.network.up_blocks)
    for level, block in enumerate(blocks.network.up_blocks):
        stride, at = 2 ** (levels - 1 - level), f"up_blocks.{level}"
        for i in range(len(block.resnets)):
            attention = f"{at}.attentions.{i}" if hasattr(block, "attentions") else None
            node = blocks.residual(f"up{stride}_{i}", (last, left.pop()), stride, f"{at}.resnets.{i}", attention)
            last = node.name
            yield node
        if block.upsampler is not None:
            node = blocks.change(f"doubled{stride // 2}", (last,), stride // 2, f"{at}.upsampler")
            last = node.name
            yield node


def _residual(blocks: Blocks, resnet: nn.Module, attention: nn.Module | None, hidden: Tensor, *skips: Tensor) -> Tensor:
    time, condition = blocks.told(hidden)

    def computed(hidden: Tensor, time: Tensor, condition: Tensor | None, *skips: Tensor) -> Tensor:
        found = resnet(torch.cat([hidden, *skips], dim=1) if skips else hidden, time)
        if isinstance(attention, SpatialTransformer):
            found = attention(found, context=condition).contiguous()
        elif attention is not None:
            found = attention(found).contiguous()
        return torch.as_tensor(found)

    return _maybe_again(blocks, resnet, computed, hidden, time, condition, *skips)


def _change(blocks: Blocks, module: nn.Module, hidden: Tensor) -> Tensor:
    return _maybe_again(blocks, module, module, hidden)


def _maybe_again(blocks: Blocks, module: nn.Module, run: Callable[..., Any], *inputs: Any) -> Tensor:
    if blocks.again and module.training and torch.is_grad_enabled():
        return torch.as_tensor(
            checkpoint(run, *inputs, use_reentrant=False, context_fn=partial(now_and_again, blocks.network))
        )
    return torch.as_tensor(run(*inputs))
