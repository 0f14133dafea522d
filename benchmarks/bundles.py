"""What a bundle costs to write, find and read, alone and among 10,000: `python benchmarks/bundles.py [FOLDER]`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.data.bundles import Bundles, bundle_key

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 10_000
SMALL = {"values": np.random.default_rng(0).standard_normal(1000).astype(np.float16)}
LARGE = {"values": np.random.default_rng(0).standard_normal(32_000_000).astype(np.float16)}
"""64 MB: about what a tune keeps of one view of a hemisphere."""


def main() -> None:
    """Print microseconds a call, and seconds for what happens rarely."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        bundles = Bundles(Path(folder) / "small", 10**9)
        keys = [bundle_key(str(n)) for n in range(MANY + 1000)]
        few = _costs(bundles, keys[:200])
        for key in keys[200:MANY]:
            bundles.write(key, SMALL)
        many = _costs(bundles, keys[MANY : MANY + 200])
        print("median microseconds         write    has    read    (first read)")
        print(f"among    200 bundles  {few}\namong {MANY} bundles  {many}")
        count, size = bundles.usage()
        print(f"{count} bundles, {size / 1e6:.0f} MB")
        print(f"counting them                      {_seconds(bundles.usage):.3f} s")
        full = Bundles(bundles.folder, size)
        print(f"a write that drives a tenth out    {_seconds(lambda: full.write(keys[-1], SMALL)):.3f} s")
        _large(Path(folder) / "large")


def _costs(bundles: Bundles, keys: list[str]) -> str:
    write = _median(keys, lambda key: bundles.write(key, SMALL))
    has = _median(keys, bundles.has)
    first = _median(keys, Bundles(bundles.folder, bundles.limit_bytes).read)
    return f"{write:10.0f} {has:6.0f} {_median(keys, bundles.read):7.0f} {first:10.0f}"


def _large(folder: Path) -> None:
    bundles, key = Bundles(folder, 10**9), bundle_key("large")
    wrote = _seconds(lambda: bundles.write(key, LARGE))
    verified = _seconds(lambda: Bundles(folder, 10**9).read(key))
    found = bundles.read(key)
    assert found is not None  # noqa: S101
    size = LARGE["values"].nbytes
    taken = _seconds(lambda: np.array(found.arrays["values"]))
    print(
        f"{size / 1e6:.0f} MB: written at {size / wrote / 1e9:.2f} GB/s, verified at {size / verified / 1e9:.2f} GB/s,",
        end="",
    )
    print(f" copied from the mapping at {size / taken / 1e9:.2f} GB/s")


def _median(keys: list[str], call: Callable[[str], object]) -> float:
    return 1e6 * statistics.median(_seconds(lambda key=key: call(key)) for key in keys)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
