"""Compare the network stage of a prediction with MONAI's sliding windows, and what the fast path loses by it.

    python benchmarks/predict.py [--feature-size 12 24] [--shape 96 160 128] [--rounds 3] [--threads 2] [--device cpu]
    python benchmarks/predict.py --accuracy SESSION MODEL [MODEL ...]

Plain is MONAI's SwinUNETR and SlidingWindowInferer as they come: windows of 64 voxels a side, overlap 0.5, four at
a time, fp32, default attention; on a GPU tf32 is allowed. Ours is what prediction chooses for this device and shape,
as it is named; what it takes once (a trial against PyTorch, compiling) is told apart. Both have the same random
weights and see the same image; rounds alternate, so that what else the machine does meets both. On a busy machine
processor time is what counts. The floor is what the arithmetic takes at the speed at which this machine multiplies
large matrices, and what moving every layer's result once to memory and back takes at the speed of a copy.

`--accuracy` predicts every case of a session that has a correction or a reference, by the path that prediction
chooses and in MONAI's windows by the same model in PyTorch fp32, and prints the Dice of both. Where nobody has
labelled the cases, their references are a rule's, and Dice is agreement with the rule.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SwinUNETR
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from napari_pcs.inference.agreement import Agreements
from napari_pcs.inference.choose import Engines
from napari_pcs.inference.labelling import labels_from, least_voxels
from napari_pcs.inference.run import pad_to_multiple, segment_hemisphere
from napari_pcs.metrics.report import compare_in
from napari_pcs.models.device import choose_device
from napari_pcs.models.folders import find_model
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.store import load_segmenter
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig
from napari_pcs.predict import network_input
from napari_pcs.session import Session
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_pcs.case import Case
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.predict import NetworkInput

WINDOWS = {12: 4, 24: 7}
SIDE, OVERLAP, BATCH = 64, 0.5, 4
TARGET = {"cpu": 20.0, "cuda": 5.0}
STOP = StopToken()


@dataclass
class Seconds:
    """Wall clock and processor time of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, work: Callable[[], object], device: torch.device) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def __str__(self) -> str:
        return f"{statistics.median(self.wall):7.2f} s wall, {statistics.median(self.cpu):7.2f} s processor"


def inferer() -> SlidingWindowInferer:
    return SlidingWindowInferer((SIDE, SIDE, SIDE), BATCH, OVERLAP)


def plain_network(network: MultiTaskSwinUNETR) -> SwinUNETR:
    config = network.config
    plain = SwinUNETR(
        in_channels=config.in_channels,
        out_channels=2,
        feature_size=config.feature_size,
        window_size=config.window_size,
        use_flash_attention=False,
    )
    plain.load_state_dict(network.backbone.state_dict())
    return plain.eval()


def image_of(shape: tuple[int, int, int]) -> np.ndarray:
    """An image (channel, x, y, z) like a hemisphere's: tissue in blocks with air around it, and position."""
    rng = np.random.default_rng(0)
    tissue = rng.integers(0, 3, [-(-side // 4) for side in shape]).astype(np.float32) / 2
    for axis in range(3):
        tissue = tissue.repeat(4, axis)
    tissue = tissue[tuple(slice(side) for side in shape)]
    places = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij")
    tissue[sum(place**2 for place in places) > 1] = 0
    return np.stack([tissue, *places])


def stage(size: int, shape: tuple[int, int, int], rounds: int, device: torch.device) -> None:
    torch.manual_seed(0)
    network = MultiTaskSwinUNETR(SwinUNETRConfig(feature_size=size, window_size=WINDOWS[size])).eval()
    image = image_of(shape)
    padded = pad_to_multiple(torch.from_numpy(image)[None])
    plain = plain_network(network).to(device)
    window = inferer()
    engines = Engines(network, f"random weights of size {size}", device)
    once, first, ours, theirs = Seconds(), Seconds(), Seconds(), Seconds()
    sides = tuple(padded.shape[2:])
    once.add(lambda: engines.for_shape(sides, STOP), device)
    engine = engines.for_shape(sides, STOP)
    route = []
    first.add(lambda: route.append(segment_hemisphere(engine, image, STOP)[2]), device)

    def by_windows() -> None:
        with torch.inference_mode():
            window(padded.to(device), plain).cpu()

    for _ in range(rounds):
        ours.add(lambda: segment_hemisphere(engine, image, STOP), device)
        theirs.add(by_windows, device)
    wall, cpu = (statistics.median(getattr(theirs, n)) / statistics.median(getattr(ours, n)) for n in ("wall", "cpu"))
    told = " x ".join(map(str, sides))
    print(f"feature size {size}, attention window {WINDOWS[size]}, {told} voxels, {device.type}, {rounds} rounds")
    print(f"  MONAI windows              {theirs}")
    print(f"  ours: {route[0].sentence:<20} {ours}")
    print(f"  choosing it, once a model  {once}")
    print(f"  the first pass of a shape  {first}")
    target = TARGET.get(device.type, 1.0)
    ratio = wall if device.type == "cuda" else cpu
    print(
        f"  ratio: wall {wall:.1f}, processor {cpu:.1f}; at least {target:.0f} is wanted: {_verdict(ratio >= target)}"
    )
    floor(plain_network(network), sides, ours, theirs, device)


def floor(network: SwinUNETR, sides: tuple[int, ...], ours: Seconds, theirs: Seconds, device: torch.device) -> None:
    """Print the arithmetic and bytes of a pass and of the windows, and what they take at this machine's speeds."""
    pass_flops, pass_bytes = work_of(network, (1, *sides))
    windows = np.prod([-(-(side - SIDE) // int(SIDE * (1 - OVERLAP))) + 1 for side in sides])
    window_flops, _ = work_of(network, (1, SIDE, SIDE, SIDE))
    multiplying, copying = speeds(device)
    all_flops = windows * window_flops
    took = {"ours": statistics.median(ours.wall), "MONAI": statistics.median(theirs.wall)}
    rates = {"ours": pass_flops / took["ours"], "MONAI": all_flops / took["MONAI"]}
    print(
        f"  arithmetic: {pass_flops / 1e9:.0f} GFLOP in one pass, {all_flops / 1e9:.0f} in {windows} windows"
        f" ({all_flops / pass_flops:.1f} times); bytes of the layers' results, written and read:"
        f" {pass_bytes / 1e9:.1f} GB"
    )
    print(
        f"  this machine: {multiplying / 1e9:.0f} GFLOP/s in large products, {copying / 1e9:.1f} GB/s in copies; ours"
        f" reaches {rates['ours'] / 1e9:.0f}, MONAI {rates['MONAI'] / 1e9:.0f} GFLOP/s"
    )
    print(
        f"  floor of one pass in fp32: {pass_flops / multiplying:.2f} s of arithmetic, {pass_bytes / copying:.2f} s of"
        f" bytes; ratio at the floor of arithmetic {took['MONAI'] * multiplying / pass_flops:.1f}"
    )


def work_of(network: SwinUNETR, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return operations and bytes of results, written once and read once, of a pass, without computing it."""
    with torch.device("meta"):
        image = torch.empty((shape[0], network.swinViT.patch_embed.proj.in_channels, *shape[1:]))
    network = network.to("meta")
    moved = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, out: moved.append(8 * out.numel()))
        for module in network.modules()
        if not list(module.children()) and not isinstance(module, nn.Identity | nn.Dropout)
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops(), sum(moved)


def speeds(device: torch.device) -> tuple[float, float]:
    """Return operations per second in large products of single precision, and bytes per second in copies."""
    side, many = (8192, 2**28) if device.type == "cuda" else (2048, 2**26)
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    source, target = torch.zeros(many, device=device), torch.zeros(many, device=device)
    best = [0.0, 0.0]
    for _ in range(4):
        for n, (work, amount) in enumerate(((lambda: a @ b, 2 * side**3), (lambda: target.copy_(source), 8 * many))):
            seconds = Seconds()
            seconds.add(work, device)
            best[n] = max(best[n], amount / seconds.wall[0])
    return best[0], best[1]


# Dice


def accuracy(folder: Path, names: list[str], device: torch.device, most: int | None) -> None:
    session = Session.open(folder)
    for name in names:
        model = find_model(name, session.models)
        network = load_segmenter(model)
        engines = Engines(network, model.digest, device, agreements=Agreements())
        dice: dict[str, list[tuple[float, float]]] = {"skeleton": [], "pcs": []}
        paths = set()
        for case in labelled(session, most):
            prepared = network_input(case, position=network.sees_position)
            fast, sentence = chosen(engines, prepared)
            paths.add(sentence)
            reports = [report(case, prepared, p) for p in (fast, windows_of(network, prepared, device))]
            for label, found in dice.items():
                one, other = (r.labels[label].dice for r in reports)
                if one is not None and other is not None:
                    found.append((one, other))
            print(f"  {case.key.stem}: " + ", ".join(_pair(label, found) for label, found in dice.items()), flush=True)
        print(f"{name}, {len(dice['skeleton'])} cases; fast path: {' | '.join(sorted(paths))}")
        for label, found in dice.items():
            fast_mean, windows_mean = np.mean(found, axis=0)
            lost = windows_mean - fast_mean
            print(
                f"  {label}: Dice {fast_mean:.4f} by the fast path, {windows_mean:.4f} in windows ({len(found)} cases);"
                f" lost {lost:+.4f}, at most 0.005 is allowed: {_verdict(lost <= 0.005)}"
            )


def labelled(session: Session, most: int | None) -> Iterator[Case]:
    cases = (session.load(key) for key in list(session.keys()))
    for n, case in enumerate(case for case in cases if case.truth is not None):
        if most is not None and n == most:
            return
        yield case


def chosen(engines: Engines, prepared: NetworkInput) -> tuple[np.ndarray, str]:
    sides = tuple(pad_to_multiple(torch.from_numpy(prepared.image)[None]).shape[2:])
    probabilities, _, route = segment_hemisphere(engines.for_shape(sides, STOP), prepared.image, STOP)
    return probabilities, route.sentence


def windows_of(network: Segmenter, prepared: NetworkInput, device: torch.device) -> np.ndarray:
    image = pad_to_multiple(torch.from_numpy(prepared.image)[None])
    x, y, z = prepared.image.shape[1:]
    with torch.inference_mode():
        logits = inferer()(image.to(device), lambda window: network.to(device)(window).logits)
    return channel_probabilities(logits)[0, :, :x, :y, :z].cpu().numpy()


def report(case: Case, prepared: NetworkInput, probabilities: np.ndarray):
    own = np.stack([prepared.grid.push(channel) for channel in probabilities], axis=-1)
    return compare_in(case, labels_from(own, min_voxels=least_voxels(case.tissue.spacing)), case.truth[1].data)


def _pair(label: str, found: list[tuple[float, float]]) -> str:
    return f"{label} {found[-1][0]:.4f} / {found[-1][1]:.4f}" if found else f"{label} -"


def _verdict(good: bool) -> str:
    return "yes" if good else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feature-size", type=int, nargs="+", choices=WINDOWS, default=list(WINDOWS))
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 160, 128))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--accuracy", nargs="+", metavar=("SESSION", "MODEL"))
    parser.add_argument("--cases", type=int, help="most cases for --accuracy")
    options = parser.parse_args()
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not options.accuracy
    if options.accuracy:
        folder, *names = options.accuracy
        accuracy(Path(folder), names or ["starter"], device, options.cases)
        return
    for size in options.feature_size:
        stage(size, tuple(options.shape), options.rounds, device)


if __name__ == "__main__":
    main()
