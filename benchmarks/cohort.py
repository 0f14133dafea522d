"""Cases a minute through `predict` on a folder, against its slowest stage alone, in one run.

    python benchmarks/cohort.py --cases 12
    python benchmarks/cohort.py --cases 12 --box 96 96 64 --rounds 3
    python benchmarks/cohort.py --cases 20 --box 32 64 32 --wait 1 --rounds 3
    python benchmarks/cohort.py --folder FOLDER --device cuda --register

Alone means: the stage does all cases, with the threads that it has, while nothing else happens. A
box makes the network look at a part of each hemisphere only. With --wait the network takes so many
seconds at least, and waits for most of them as it does for a GPU: for a machine whose processors
others use too, where the same work takes twice as long a minute later.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.anatomy.grid import NetworkGrid
from napari_pcs.cohort_prediction import CohortPrediction, Hands
from napari_pcs.data.phantom import phantom
from napari_pcs.inputs import find_inputs
from napari_pcs.labels import Hemisphere
from napari_pcs.models.device import choose_device
from napari_pcs.models.folders import find_model
from napari_pcs.models.store import load_segmenter
from napari_pcs.session import Session
from napari_pcs.stop import StopToken

if TYPE_CHECKING:
    from napari_pcs.streams import Stage

CORNER = (8, 60, 60)
"""Voxel of the network's grid at which a box begins: it holds the medial frontal wall."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=12)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--folder", type=Path, help="hemispheres to use instead of phantoms")
    options.add_argument("--spacing", type=float, default=1.0, help="voxel size of the phantoms in mm")
    options.add_argument("--register", action="store_true", help="leave out where AC and PC are: they are looked for")
    options.add_argument("--box", type=int, nargs=3, help="sides of the part that the network looks at, in voxels")
    options.add_argument("--wait", type=float, default=0.0, help="seconds that the network takes at least")
    options.add_argument("--model", default="starter")
    options.add_argument("--device", default="auto")
    options.add_argument("--hands", type=int, nargs=3, help="threads that read, measure and write")
    given = options.parse_args()
    if given.box:
        box = classmethod(lambda cls, content, frame: cls(frame, content.shape, CORNER, tuple(given.box)))
        NetworkGrid.around = box  # type: ignore[assignment]
    device = choose_device(given.device)
    folder = find_model(given.model)
    network = load_segmenter(folder).to(device)
    hands = Hands(*given.hands) if given.hands else Hands.for_device(device)
    alone: dict[str, list[float]] = {}
    together: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if not given.folder:
            write_phantoms(root / "maps", given.cases, given.spacing, landmarks=not given.register)
        inputs = list(enumerate(find_inputs([given.folder or root / "maps"])[: given.cases]))

        def work(name: str) -> CohortPrediction:
            made = Waiting(Session.create(root / name), network, folder.reference, device, hands=hands)
            made.seconds = given.wait
            return made

        list(work("warm").run(inputs[:1]))
        for n in range(given.rounds):
            for name, seconds in one_after_other(work(f"alone-{n}").stages(), inputs).items():
                alone.setdefault(name, []).append(seconds)
            start = time.perf_counter()
            outcomes = list(work(f"together-{n}").run(inputs))
            together.append(time.perf_counter() - start)
            failed = [outcome.reason for outcome in outcomes if outcome.error]
            assert not failed, failed  # noqa: S101
    report(alone, together, len(outcomes), hands, device.type)


class Waiting(CohortPrediction):
    """Whose network takes some seconds at least, without a processor."""

    seconds = 0.0

    def _infer(self, job: Any, stop: StopToken) -> Any:
        start = time.perf_counter()
        done = super()._infer(job, stop)
        time.sleep(max(0.0, start + self.seconds - time.perf_counter()))
        return done


def write_phantoms(folder: Path, count: int, spacing: float, *, landmarks: bool) -> None:
    """Write a left phantom as so many people's."""
    folder.mkdir()
    case = phantom(Hemisphere.LEFT, spacing_mm=spacing)
    first = folder / "sub-0000_hemi-L_gw.nii.gz"
    case.tissue.with_data(case.tissue.data * np.uint8(100)).write(first)
    known = case.commissures.sidecar(np.linalg.inv(case.tissue.source_affine)) if case.commissures else {}
    for n in range(count):
        path = folder / f"sub-{n:04}_hemi-L_gw.nii.gz"
        if n:
            shutil.copy(first, path)
        if landmarks:
            content = {"AnatomicalLandmarkCoordinates": known["AnatomicalLandmarkCoordinates"]}
            path.with_name(path.name.removesuffix(".nii.gz") + ".json").write_text(json.dumps(content))


def one_after_other(stages: tuple[Stage, ...], inputs: list[Any]) -> dict[str, float]:
    """Return the seconds that each stage takes for all, alone."""
    taken, values, stop = {}, inputs, StopToken()
    for n, stage in enumerate(stages):

        def work(value: Any, stage: Stage = stage, first: bool = not n) -> list[Any]:
            done = stage.work(value, stop)
            return list(done) if first else [done]

        with ThreadPoolExecutor(stage.workers) as pool:
            start = time.perf_counter()
            values = [found for some in pool.map(work, values) for found in some]
            taken[stage.name] = time.perf_counter() - start
    return taken


def report(alone: dict[str, list[float]], together: list[float], cases: int, hands: Hands, device: str) -> None:
    """Print what was found: medians over the rounds."""
    seconds = {name: median(times) for name, times in alone.items()}
    slowest = max(seconds, key=lambda name: seconds[name])
    ratios = [max(times[n] for times in alone.values()) / all_of_it for n, all_of_it in enumerate(together)]
    print(f"{cases} cases, network on {device}, {hands}, {os.cpu_count()} processors; s a case, each stage alone:")
    print("  " + "  ".join(f"{name} {taken / cases:.2f}" for name, taken in seconds.items()))
    print(f"one stage after the other   {60 * cases / sum(seconds.values()):8.1f} cases a minute")
    print(f"slowest stage alone         {60 * cases / seconds[slowest]:8.1f} cases a minute ({slowest})")
    print(f"overlapped                  {60 * cases / median(together):8.1f} cases a minute")
    print(f"overlapped : slowest alone  {median(ratios):8.2f}  ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
