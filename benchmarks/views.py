"""Time random views, and how much of a 3-D view lies outside its patch.

    python benchmarks/views.py [--draws 40]

Run it on one core (`OMP_NUM_THREADS=1`). Times are process time, median over the draws; a training
step needs at least two views of each sample.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.data.augment import Augmentation3D, augment
from napari_pcs.data.patch import Patch
from napari_pcs.data.phantom import phantom
from napari_pcs.objectives.views import ViewSettings, region_for, views_of

if TYPE_CHECKING:
    from collections.abc import Callable

PLACE_ONLY = Augmentation3D(ribbon=0, blur_mm=0, grey=0, contrast=0, gain=0, noise=0, blocks=0)


def milliseconds(draw: Callable[[], object], draws: int) -> str:
    draw()
    times = []
    for _ in range(draws):
        start = time.process_time()
        draw()
        times.append(1e3 * (time.process_time() - start))
    low, middle, high = np.percentile(times, (10, 50, 90))
    return f"{middle:5.1f} ms ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=40)
    draws = parser.parse_args().draws
    rng, settings = np.random.default_rng(0), ViewSettings()
    tissue = np.pad(phantom().tissue.data[None].astype(np.float32) / 2, ((0, 0), (3, 3), (0, 0), (0, 0)))
    for size in ((64, 64, 64), (64, 32, 32), (32, 32, 32)):
        region = region_for(size)
        patch = Patch(tissue[:, : region[0], 60 : 60 + region[1], 30 : 30 + region[2]].copy(), None, "phantom")
        took = milliseconds(lambda p=patch, s=size: views_of(p, s, 1, rng, settings=settings), draws)  # type: ignore[misc]
        ones = np.ones_like(patch.image)
        outside = [1 - float(augment(ones, size, rng, PLACE_ONLY).mean()) for _ in range(draws)]
        print(f"3-D {size} from {region}: {took}; outside mean {np.mean(outside):.1%}, most {np.max(outside):.1%}")
    for side, channels in ((96, 3), (224, 3), (128, 1)):
        patch = Patch(rng.random((channels, 256, 256), dtype=np.float32), None, "noise")
        took = milliseconds(lambda p=patch, n=side: views_of(p, (n, n), 1, rng, settings=settings), draws)  # type: ignore[misc]
        print(f"2-D {side} x {side} from {channels} x 256 x 256: {took}")


if __name__ == "__main__":
    main()
