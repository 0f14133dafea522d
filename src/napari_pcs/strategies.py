"""Which parts of a network a tuning strategy trains; everything else stays bit-identical.

A strategy names modules. All that follows - gradients, training mode, counts, what is kept of the
best round - is read off the weights that then have gradients on, so that no two of them can disagree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_pcs.errors import ModelError
from napari_pcs.models.parts import PARTS, PartName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from napari_pcs.models.contract import Network
    from napari_pcs.models.lora_config import LoraConfig

__all__ = [
    "STRATEGIES",
    "ParameterCount",
    "decoder",
    "full",
    "prepare",
    "top",
    "trained_modules",
    "trained_parts",
    "trained_state",
]

TOP_SHARE = 0.10
"""The first paper's top-tuning retrains "the last 10 % of the model's parameters"."""

STRATEGIES: dict[str, str] = {
    "top": "the heads and the last 10 % of the weights, counted from the output in whole modules",
    "decoder": "the heads and the whole decoder",
    "full": "everything",
    "lora": "the heads, and low-rank pairs beside the encoder's linear layers",
    "scratch": "everything, from new random weights",
}
"""Strategies by name: what each trains."""


class ParameterCount(NamedTuple):
    """How many weights a strategy trains, of how many.

    Attributes
    ----------
    trainable
        Weights with gradients on, those of low-rank pairs and of the copies of the heads beside
        them included.
    total
        Weights of the network as it is saved in full, with pairs merged: each once, trained or not.
    """

    trainable: int
    total: int


def top(network: Network) -> list[str]:
    """Return the last 10 % of the weights, from the output backwards in whole modules, plus all heads.

    Modules are those of the decoder; of the encoder in a network without one. The heads are trained
    in any case and do not count towards the share. Where the last module alone is more than the
    share, only the heads train.
    """
    budget = TOP_SHARE * _size(network)
    chosen = list(network.parts["heads"])
    for name, module in reversed(list(network.modules_of("decoder" if network.parts["decoder"] else "encoder"))):
        budget -= _size(module)
        if budget < 0:
            break
        chosen.append(name)
    return chosen


def decoder(network: Network) -> list[str]:
    """Return every module of the decoder, plus all heads.

    Raises
    ------
    ModelError
        If the network has no decoder.
    """
    if not network.parts["decoder"]:
        msg = (
            f"Strategy decoder: found no decoder in {network.config.architecture}, expected a network that has one."
            " Choose top, full or scratch, or a network that labels."
        )
        raise ModelError(msg)
    return [*network.parts["decoder"], *network.parts["heads"]]


def full(network: Network) -> list[str]:
    """Return the modules of all parts: together they hold every weight."""
    return [name for part in PARTS for name in network.parts[part]]


_NAMED: dict[str, Callable[[Network], list[str]]] = {"top": top, "decoder": decoder, "full": full, "scratch": full}


def prepare(network: Network, strategy: str, *, lora: LoraConfig | None = None, seed: int = 0) -> ParameterCount:
    """Freeze a network except for what a strategy trains, and leave only that in training mode.

    What is frozen has gradients off and keeps none of earlier steps, and is in evaluation mode: no
    step, no weight decay and no batch that passes changes it by a bit. If the strategy is refused,
    the network is as it was.

    Parameters
    ----------
    network
        Changed in place: by *scratch* its weights, by *lora* its modules (see `models.lora.inject`).
    strategy
        One of `STRATEGIES`.
    lora
        Settings of *lora*, whose defaults are taken if left out; the others have none.
    seed
        What the new random weights of *scratch* and *lora* are drawn from. PyTorch's own random
        numbers go on as if nothing had been drawn.

    Raises
    ------
    ModelError
        If there is no such strategy, if it finds nothing to train in this network, or if an adapter
        is in it that the strategy does not train.
    """
    if strategy not in STRATEGIES:
        msg = f"Strategy {strategy}: found no such strategy, expected one of: {', '.join(STRATEGIES)}."
        raise ModelError(msg)
    total = _size(network)
    if strategy == "lora":
        total = _put_pairs(network, lora, seed)
    else:
        modules = _named_modules(network, strategy)
        if strategy == "scratch":
            _draw_again(network, seed)
        network.requires_grad_(requires_grad=False)
        for module in modules:
            module.requires_grad_(requires_grad=True)
    network.zero_grad(set_to_none=True)
    network.eval()
    for module in trained_modules(network):
        module.train()
    return ParameterCount(_trainable(network), total)


def trained_modules(network: nn.Module) -> list[nn.Module]:
    """Return the modules that train, in order: each one all of whose weights have gradients on, but for those within.

    Of low-rank pairs the wrapped layer is returned: its own weight is frozen and has no statistics,
    but the dropout before its pair is to be on.
    """
    if _adapters(network):
        from napari_pcs.models.lora import trained_modules as of_adapter

        return of_adapter(network)  # type: ignore[arg-type]  # only a `Network` gets one
    return list(_topmost(network))


def trained_parts(network: Network) -> tuple[PartName, ...]:
    """Return the parts of which something trains."""
    return tuple(
        part for part in PARTS if any(p.requires_grad for _, m in network.modules_of(part) for p in m.parameters())
    )


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """Return copies, on the CPU, of the tensors that training may change, by their names in `state_dict`.

    These are the weights with gradients on, and the buffers of the modules that train: running
    statistics of batch normalisation follow the batches, not the gradients.
    """
    changing = {name for name, p in network.named_parameters() if p.requires_grad}
    inside = {id(module) for trained in trained_modules(network) for module in trained.modules()}
    for prefix, module in network.named_modules():
        if id(module) in inside:
            changing.update(f"{prefix}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False))
    return {name: t.detach().to("cpu", copy=True) for name, t in network.state_dict().items() if name in changing}


def _named_modules(network: Network, strategy: str) -> list[nn.Module]:
    """Return the modules that a strategy names, after making sure that it can train them."""
    if _adapters(network):
        msg = f"Strategy {strategy}: found an adapter in the network, expected a plain one. Merge it first."
        raise ModelError(msg)
    modules = [network.get_submodule(name) for name in _NAMED[strategy](network)]
    if not any(map(_size, modules)):
        msg = (
            f"Strategy {strategy}: found nothing to train in {network.config.architecture}, expected a head, or a last"
            f" module of no more than {TOP_SHARE:.0%} of the weights. Choose full, or give the network a head."
        )
        raise ModelError(msg)
    return modules


def _put_pairs(network: Network, lora: LoraConfig | None, seed: int) -> int:
    """Put low-rank pairs into a network that may hold them already; return the number of its other weights."""
    import torch

    from napari_pcs.models.lora import inject
    from napari_pcs.models.lora_config import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        inject(network, lora or LoraConfig())
    return _size(network) - _trainable(network)


def _draw_again(network: Network, seed: int) -> None:
    """Give a network the weights and buffers of a new one, drawn on the CPU so that they are the same on any device."""
    import torch

    from napari_pcs.models.networks import build_network

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        drawn = build_network(network.config)
    network.load_state_dict(drawn.state_dict())


def _topmost(module: nn.Module) -> Iterator[nn.Module]:
    gradients = {p.requires_grad for p in module.parameters()}
    if gradients == {True}:
        yield module
    elif gradients == {True, False}:
        for child in module.children():
            yield from _topmost(child)


def _adapters(network: nn.Module) -> bool:
    return bool(vars(network).get("peft_config"))


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _trainable(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
