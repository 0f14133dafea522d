"""Compare a step of each tuning strategy with a full-tune step in plain MONAI/PyTorch: time and memory.

    python benchmarks/tune.py [--feature-size 24] [--batch 2] [--rounds 3] [--device cpu] [--threads 1]
    python benchmarks/tune.py --keep
    python benchmarks/tune.py --memory

Plain is MONAI's SwinUNETR as it comes, the same segmentation loss, torch.optim.Adam and zero_grad,
backward, step in fp32, all weights trained. Ours is the package's loop on patches of kept frozen
values. Both see patches of 64 voxels a side of the same phantoms; rounds alternate, so that what else
the machine does meets all of them. Processor time is what counts on a busy machine; on a GPU it is
the wall clock. With `--keep` all of them run as the package's processes do, which keep freed memory
(`napari_pcs.heap`); without, none does. `--memory` runs each of them in a process of its own and
prints the peak resident memory beyond what importing takes. `--floor` prints the arithmetic of a step
and the bytes of all results in it, written once and read once, and what they take at the speeds at
which this machine multiplies and copies.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from monai.networks.nets import SwinUNETR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.heap import reuse
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig
from napari_pcs.stop import StopToken
from napari_pcs.strategies import prepare, trained_modules
from napari_pcs.training.config import LoopConfig, OptimiserConfig, TuneConfig
from napari_pcs.training.events import Step
from napari_pcs.training.features import FrozenValues, Item
from napari_pcs.training.keeper import Keeper
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.loop import Loop
from napari_pcs.training.losses import total_loss
from napari_pcs.training.processes import Processes
from napari_pcs.training.segmentation import Patches, Segmentation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RATE = 1e-4
STRATEGIES = ("top", "decoder", "lora", "full")
PLAIN = "plain full"


def cases() -> list[Labelled]:
    return [Labelled.of(phantom(pcs_length_mm=mm, seed=seed)) for seed, mm in enumerate((30.0, 60.0))]


def ours(strategy: str, options: argparse.Namespace, folder: Path) -> Iterator[None]:
    """Tune by the package's loop; yields after each step."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    network = MultiTaskSwinUNETR(SwinUNETRConfig(feature_size=options.feature_size, window_size=options.window))
    config = TuneConfig(strategy=strategy, batch_size=options.batch, patch=64, views=1, learning_rate=RATE)
    prepare(network.to(device), strategy, lora=config.lora, seed=0)
    values = FrozenValues(network, config, Bundles(folder, 2**33), StopToken())
    whom = cases()
    for case in whom:
        values.prepare(case, 0)
    items = [Item(case, 0, place) for place in range(config.patches) for case in whom]
    steps = options.rounds + 1
    batches = Patches(values, lambda _round: (items * 100)[: options.batch * steps], (), options.batch, steps)
    task = Segmentation(network, trained_modules(network))
    loop = LoopConfig(
        epochs=1,
        batch_size=options.batch,
        micro_batch=options.batch,
        optimiser=OptimiserConfig(name="adam", learning_rate=RATE, weight_decay=0),
    )
    for event in Loop(task, batches, loop, Processes(options.device), Keeper(), StopToken()).events():
        if isinstance(event, Step):
            yield


def plain(options: argparse.Namespace, folder: Path) -> Iterator[None]:
    """Train all of MONAI's network as one would by hand; yields after each step."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    network = SwinUNETR(in_channels=4, out_channels=2, feature_size=options.feature_size, window_size=options.window)
    optimiser = torch.optim.Adam(network.to(device).parameters(), lr=RATE)
    batches = image_batches(options, folder)
    while True:
        image, targets = (tensor.to(device) for tensor in next(batches))
        optimiser.zero_grad()
        total_loss(network(image), targets, None, None).backward()
        optimiser.step()
        yield


def image_batches(options: argparse.Namespace, folder: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Patches of the image itself, as a strategy that trains everything reads them."""
    network = MultiTaskSwinUNETR(SwinUNETRConfig(feature_size=12, window_size=4))
    prepare(network, "full", lora=None, seed=0)
    values = FrozenValues(network, TuneConfig(strategy="full", views=1), Bundles(folder, 2**33), StopToken())
    patches = [values.patch(Item(case, 0, place)) for place in range(4) for case in cases()]
    del network, values
    while True:
        for first in range(0, len(patches) - options.batch + 1, options.batch):
            taken = patches[first : first + options.batch]
            yield (
                torch.cat([patch["value/image"] for patch in taken]).float(),
                torch.cat([patch["targets"] for patch in taken]).float(),
            )


def steps_of(name: str, options: argparse.Namespace, folder: Path) -> Iterator[None]:
    return plain(options, folder) if name == PLAIN else ours(name, options, folder)


def compare(options: argparse.Namespace, folder: Path) -> None:
    names = (PLAIN, *STRATEGIES)
    runs = {name: steps_of(name, options, folder) for name in names}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(options.rounds + 1):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            next(run)
            if options.device == "cuda":
                torch.cuda.synchronize()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    print(f"feature size {options.feature_size}, batch {options.batch}, {options.device}, {options.threads} threads")
    print("| step | s processor | s wall | plain / this, processor | wall |\n|---|---|---|---|---|")
    of_plain = [statistics.median(kind) for kind in zip(*taken[PLAIN][1:], strict=True)]
    for name in names:
        cpu, wall = (statistics.median(kind) for kind in zip(*taken[name][1:], strict=True))
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {of_plain[0] / cpu:.2f} | {of_plain[1] / wall:.2f} |", flush=True)


def memory(options: argparse.Namespace) -> None:
    print("| step | peak MB beyond imports |\n|---|---|")
    for name in (PLAIN, *STRATEGIES):
        arguments = [sys.executable, __file__, "--only", name, "--feature-size", str(options.feature_size)]
        arguments += ["--keep"] if options.keep else []
        arguments += ["--batch", str(options.batch), "--window", str(options.window), "--rounds", "1"]
        found = subprocess.run(arguments, capture_output=True, text=True, check=True)  # noqa: S603  our own file
        print(f"| {name} | {found.stdout.strip().splitlines()[-1]} |", flush=True)


def only(options: argparse.Namespace, folder: Path) -> None:
    """Fill the folder first, in another process, so that the peak is that of steps; then two steps."""
    if not options.fill and not any(folder.iterdir()):
        fill = [*sys.argv, "--folder", str(folder), "--fill"]
        subprocess.run([sys.executable, *fill], check=True, capture_output=True)  # noqa: S603  our own file
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = steps_of(options.only, options, folder)
    next(run)
    if not options.fill:
        next(run)
    print(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3:.0f}")


def floor(options: argparse.Namespace, folder: Path) -> None:
    """Arithmetic and bytes of one step, and what the machine multiplies and copies in a second."""
    multiplying, copying = speeds()
    print(f"{multiplying / 1e9:.0f} GFLOP/s in products, {copying / 1e9:.1f} GB/s in copies, {options.threads} threads")
    for name in (PLAIN, *STRATEGIES):
        run = steps_of(name, options, folder)
        next(run)
        with FlopCounterMode(display=False) as counter, Results() as results:
            next(run)
        flops = counter.get_total_flops()
        print(
            f"{name}: {flops / 1e9:.0f} GFLOP that PyTorch counts, {flops / multiplying:.2f} s;"
            f" {results.moved / 1e9:.1f} GB of results, {results.moved / copying:.2f} s",
            flush=True,
        )


def speeds() -> tuple[float, float]:
    """Return operations per second in large products of single precision, and bytes per second in copies."""
    side, many = 1500, 2**25
    matrix, source, target = torch.rand(side, side), torch.zeros(many), torch.zeros(many)
    best = [0.0, 0.0]
    for _ in range(5):
        for n, (work, amount) in enumerate(
            ((lambda: matrix @ matrix, 2 * side**3), (lambda: target.copy_(source), 8 * many))
        ):
            began = time.perf_counter()
            work()
            best[n] = max(best[n], amount / (time.perf_counter() - began))
    return best[0], best[1]


class Results(TorchDispatchMode):
    """Counts the bytes of what operations return, each written once and read once."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.moved += sum(2 * found.nbytes for found in tree_leaves(out) if isinstance(found, torch.Tensor))
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feature-size", type=int, default=24, choices=[12, 24, 36, 48])
    parser.add_argument("--window", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--only", choices=[PLAIN, *STRATEGIES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--fill", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.keep:
        reuse()
    from pathlib import Path

    with TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if options.memory:
            memory(options)
        elif options.only:
            only(options, folder)
        elif options.floor:
            floor(options, folder)
        else:
            compare(options, folder)


if __name__ == "__main__":
    main()
