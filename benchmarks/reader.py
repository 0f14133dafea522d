"""Memory and time of drawing patches from 100 and from 10,000 hemispheres.

    python benchmarks/reader.py
    python benchmarks/reader.py --map sub-01_hemi-L_gw.nii.gz   # of a real person

The cohort is made of links to one map: names, headers, stored hemispheres and the work of drawing
are those of so many people; the page cache of the system is not. Each cohort is drawn from in a
process of its own, whose highest resident memory is read at its end. `before` is what Python and
the imported modules take. Processor time is given beside wall time, which other work on the machine
stretches.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from napari_pcs.data.cache import HemisphereCache
from napari_pcs.data.hemispheres import Hemispheres, open_hemispheres
from napari_pcs.data.listing import find_hemispheres
from napari_pcs.data.phantom import phantom

SIZE = (64, 64, 64)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--counts", type=int, nargs="+", default=[100, 10_000])
    options.add_argument("--draws", type=int, default=2000)
    options.add_argument("--map", type=Path, help="left grey/white map; a phantom if left out")
    options.add_argument("--draw-from", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.draw_from:
        measure(given.draw_from, given.draws)
        return
    peaks = []
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), count, given.map)
            command = [sys.executable, __file__, "--draw-from", folder, "--draws", str(given.draws)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
        print(f"{count:>7} hemispheres: {line}")
        peaks.append(float(line.split("peak ")[1].split()[0]))
    print(f"peak memory, most to fewest: x {peaks[-1] / peaks[0]:.3f} ({peaks[-1] - peaks[0]:+.1f} MB)")


def make(folder: Path, count: int, map_path: Path | None) -> None:
    """Link one map and its stored form under many names."""
    maps, cache = folder / "maps", folder / "cache"
    maps.mkdir()
    first = maps / "sub-00000_hemi-L_gw.nii.gz"
    if map_path is None:
        case = phantom()
        nib.save(nib.Nifti1Image(case.tissue.data * np.uint8(100), case.tissue.affine), first)
    else:
        first.write_bytes(map_path.read_bytes())
    for n in range(1, count):
        (maps / f"sub-{n:05}_hemi-L_gw.nii.gz").symlink_to(first)
    open_hemispheres(maps, cache).draw(0, SIZE, np.random.default_rng(0))
    stored = {suffix: next(cache.glob(f"*{suffix}")) for suffix in (".npy", ".json")}
    for one in find_hemispheres(maps).hemispheres:
        entry = HemisphereCache(cache).entry(one.files, one.hemisphere)
        for suffix, path in stored.items():
            if not (target := entry.with_suffix(suffix)).exists():
                os.link(path, target)


def measure(folder: Path, draws: int) -> None:
    before = peak_mb()
    began = time.perf_counter()
    source: Hemispheres = open_hemispheres(folder / "maps", folder / "cache")
    listed = time.perf_counter() - began
    source.digest  # noqa: B018  as a run records it
    described = time.perf_counter() - began - listed
    order = np.random.default_rng(0).integers(len(source.names), size=draws)
    times = []
    worked = time.process_time()
    for n, index in enumerate(order):
        began = time.perf_counter()
        source.draw(int(index), SIZE, np.random.default_rng(n))
        times.append(time.perf_counter() - began)
    worked = 1000 * (time.process_time() - worked) / draws
    ms = 1000 * np.array(times)
    print(
        f"listed in {listed:.3f} s, digest {described:.3f} s; {np.median(ms):.2f} ms a patch (99 %: "
        f"{np.percentile(ms, 99):.2f}; processor {worked:.2f}); before {before:.1f} MB, peak {peak_mb():.1f} MB;"
        f" {len(list((folder / 'cache').glob('*.npy')))} stored"
    )


def peak_mb() -> float:
    """Highest resident memory of this program; what the system counts may include its parent's before it started."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    main()
