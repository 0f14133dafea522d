"""Compare a step of pre-training with a plain MONAI/PyTorch loop: samples per second, and its parts.

    python benchmarks/pretrain.py [--feature-size 24] [--batch 1] [--rounds 5] [--device cpu] [--threads 1]

The objective is "reconstruction". Plain is MONAI's SwinUNETR as it comes (its 1 x 1 x 1 output
layer is the head), its SSIMLoss, torch.optim.Adam and zero_grad, backward, step in fp32. Ours is the
package's network, objective and training loop. Both start from the same weights and are given the
same batches of phantoms, drawn beforehand by the objective; rounds alternate, so that what else the
machine does meets both. Processor time is what counts on a busy machine; on a GPU it is the wall clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from monai.losses import SSIMLoss
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import WindowAttention, compute_mask

from napari_pcs.data.patch import Patch
from napari_pcs.data.phantom import phantom
from napari_pcs.models.attention import fuse_attention, window_regions
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig
from napari_pcs.objectives import find_objective
from napari_pcs.objectives.ssim import ssim_loss
from napari_pcs.stop import StopToken
from napari_pcs.training.batches import Drawn
from napari_pcs.training.config import LoopConfig, OptimiserConfig
from napari_pcs.training.events import Step
from napari_pcs.training.keeper import Keeper
from napari_pcs.training.loop import Loop
from napari_pcs.training.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_pcs.objectives.task import Batch

RATE = 1e-4
OBJECTIVE = find_objective("reconstruction")
SETTINGS = OBJECTIVE.config_class()


class Taken(NamedTuple):
    """What one piece of work took, in seconds, and the number it came to."""

    cpu: float
    wall: float
    result: float


class Batches:
    """Batches that were drawn beforehand."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.steps_per_epoch = batches, len(batches)

    def epoch(self, _epoch: int, first_step: int = 0) -> Iterator[Drawn]:
        for batch in self.batches[first_step:]:
            yield Drawn(batch)

    def validation(self) -> Iterator[Drawn]:
        yield from ()


def draw(count: int, batch: int, side: int) -> list[Batch]:
    """Draw batches of patches from phantoms, at places and with blocks that a seed decides."""
    size = (side,) * 3
    tissues = [phantom(pcs_length_mm=mm, seed=seed).tissue.data for seed, mm in enumerate((0.0, 30.0, 60.0))]
    batches = []
    for step in range(count):
        samples = []
        for slot in range(batch):
            rng = np.random.default_rng([step, slot])
            tissue = tissues[rng.integers(len(tissues))]
            first = [int(rng.integers(0, n - side + 1)) for n in tissue.shape]
            box = tuple(slice(start, start + side) for start in first)
            image = tissue[box][None].astype(np.float32) / 2
            position = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")).astype(np.float32)
            samples.append(OBJECTIVE.sample(Patch(image, position, "phantom"), size, SETTINGS, rng))
        batches.append({name: torch.stack([torch.as_tensor(s[name]) for s in samples]) for name in samples[0]})
    return batches


def timed(work: Callable[[], float], device: torch.device) -> Taken:
    synchronise(device)
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    synchronise(device)
    return Taken(time.process_time() - cpu, time.perf_counter() - wall, result)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain_steps(network: SwinUNETR, batches: list[Batch], device: torch.device) -> Iterator[float]:
    """Train as one would by hand; yields the loss of each step."""
    network.to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    criterion = SSIMLoss(spatial_dims=3, data_range=1.0)
    for batch in batches:
        image, given, position = (batch[name].to(device) for name in ("image", "given", "position"))
        optimiser.zero_grad()
        loss = criterion(torch.sigmoid(network(torch.cat([given, position], dim=1))), image)
        loss.backward()
        optimiser.step()
        yield float(loss.detach())


def our_steps(objective: torch.nn.Module, batches: list[Batch], device: torch.device) -> Iterator[float]:
    """Train by the package's loop; yields the loss of each step."""
    size = len(batches[0]["image"])
    config = LoopConfig(
        epochs=1,
        batch_size=size,
        micro_batch=size,
        optimiser=OptimiserConfig(name="adam", learning_rate=RATE, weight_decay=0),
    )
    loop = Loop(objective.to(device), Batches(batches), config, Processes(device.type), Keeper(), StopToken())
    yield from (event.loss for event in loop.events() if isinstance(event, Step))


def build(feature_size: int, window: int) -> tuple[SwinUNETR, torch.nn.Module]:
    """Both networks with the same weights."""
    torch.manual_seed(0)
    config = SwinUNETRConfig(feature_size=feature_size, window_size=window)
    objective = OBJECTIVE(MultiTaskSwinUNETR(config), SETTINGS)
    plain = SwinUNETR(in_channels=4, out_channels=1, feature_size=feature_size, window_size=window)
    weights = {k: v for k, v in objective.network.backbone.state_dict().items() if not k.startswith("out.")}
    plain.load_state_dict(
        weights | {f"out.conv.conv.{k}": v for k, v in objective.to_image.state_dict().items()}, strict=True
    )
    return plain, objective


def attention_passes(feature_size: int, batch: int, device: torch.device) -> tuple[Callable[[], float], ...]:
    """MONAI's attention and ours of the first stage, shifted, both ways; each returns a number of its gradient."""
    window, shift, sides = (7, 7, 7), (3, 3, 3), (35, 35, 35)
    torch.manual_seed(0)
    plain, ours = (WindowAttention(feature_size, 3, window, qkv_bias=True).to(device) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    fuse_attention(ours)
    masks = compute_mask(list(sides), window, shift, device), window_regions(sides, window, shift, device)
    tokens = torch.randn(len(masks[1]) * batch, 343, feature_size, device=device, requires_grad=True)
    probe = torch.randn_like(tokens)

    def run(attention: torch.nn.Module, mask: torch.Tensor) -> float:
        tokens.grad = None
        attention(tokens, mask).square().sum().backward()
        return float((tokens.grad * probe).sum())

    return lambda: run(plain, masks[0]), lambda: run(ours, masks[1])


def ssim_passes(batch: Batch, device: torch.device) -> tuple[Callable[[], float], ...]:
    """MONAI's SSIM loss and ours, there and back; each returns the loss."""
    image, given = batch["image"].to(device), batch["given"].to(device).requires_grad_()
    criterion = SSIMLoss(spatial_dims=3, data_range=1.0)

    def run(loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
        loss = loss_of(given, image)
        loss.backward()
        return float(loss.detach())

    return lambda: run(criterion), lambda: run(ssim_loss)


def compare(name: str, works: tuple[Callable[[], float], ...], rounds: int, device: torch.device) -> None:
    """Time plain and ours in turn, after one round to warm up, and print medians and ratios."""
    taken = [[timed(work, device) for work in works] for _ in range(rounds + 1)]
    plain, ours = zip(*taken[1:], strict=True)
    row = [name]
    for kind in ("cpu", "wall"):
        a, b = (statistics.median(getattr(one, kind) for one in side) for side in (plain, ours))
        row += [f"{a:.3f}", f"{b:.3f}", f"{a / b:.2f}"]
    difference = abs(taken[0][0].result - taken[0][1].result) / abs(taken[0][0].result)
    print("| " + " | ".join([*row, f"{difference:.1e}"]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feature-size", type=int, nargs="+", default=[24], choices=[12, 24, 36, 48])
    parser.add_argument("--window", type=int, default=7)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--patch", type=int, default=64, help="voxels a side, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"{options.device}, {options.threads} threads, {options.patch}^3 patches, window {options.window}")
    print(f"Seconds, medians of {options.rounds} rounds; relative difference of the first results")
    print("| what | plain cpu | ours cpu | ratio | plain wall | ours wall | ratio | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for feature_size in options.feature_size:
        for batch in options.batch:
            batches = draw(options.rounds + 1, batch, options.patch)
            label = f"feature size {feature_size}, batch {batch}"
            network, objective = build(feature_size, options.window)
            plain, ours = plain_steps(network, batches, device), our_steps(objective, batches, device)
            compare(f"step, {label}", (plain.__next__, ours.__next__), options.rounds, device)
            compare(f"SSIM loss, {label}", ssim_passes(batches[0], device), options.rounds, device)
            compare(f"attention, {label}", attention_passes(feature_size, batch, device), options.rounds, device)


if __name__ == "__main__":
    main()
