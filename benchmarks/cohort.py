"""Cases a minute through `predict` on a folder, against its slowest stage alone, in one run.

    python benchmarks/cohort.py --cases 12
    python benchmarks/cohort.py --cases 12 --box 96 96 64 --rounds 3
    python benchmarks/cohort.py --cases 20 --box 32 64 32 --wait 1 --rounds 3
    python benchmarks/cohort.py --folder FOLDER --device cuda --register

Alone means: the stage does all cases, with the threads that it has, while nothing else happens. Always
busy means: the processor time of all stages alone over the number of processors, a bound where the
network computes on them too. A box makes the network look at a part of each hemisphere only. With
--wait the network takes so many seconds at least, and waits for most of them as it does for a GPU: for
a machine whose processors others use too, where the same work takes twice as long a minute later.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_pcs.anatomy.grid import NetworkGrid
from napari_pcs.cohort_prediction import CohortPrediction, Hands
from napari_pcs.data.phantom import phantom
from napari_pcs.heap import reuse
from napari_pcs.inference.choose import Engines
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
    options.add_argument("--engine", default="auto", help="auto, torch or openvino")
    options.add_argument("--hands", type=int, nargs=3, help="threads that read, measure and write")
    given = options.parse_args()
    reuse()
    if given.box:
        box = classmethod(lambda cls, content, frame: cls(frame, content.shape, CORNER, tuple(given.box)))
        NetworkGrid.around = box  # type: ignore[assignment]
    device = choose_device(given.device)
    folder = find_model(given.model)
    network = load_segmenter(folder)
    engines = Engines(network, folder.digest, device, given.engine)
    hands = Hands(*given.hands) if given.hands else Hands.for_device(device)
    alone: dict[str, list[Taken]] = {}
    together: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if not given.folder:
            write_phantoms(root / "maps", given.cases, given.spacing, landmarks=not given.register)
        inputs = list(enumerate(find_inputs([given.folder or root / "maps"])[: given.cases]))

        def work(name: str) -> CohortPrediction:
            session = Session.create(root / name)
            made = Waiting(session, network, folder.reference, device, hands=hands, options={"engines": engines})
            made.seconds = given.wait
            return made

        list(work("warm").run(inputs[:1]))
        for n in range(given.rounds):
            for name, taken in one_after_other(work(f"alone-{n}").stages(), inputs).items():
                alone.setdefault(name, []).append(taken)
            start = time.perf_counter()
            outcomes = list(work(f"together-{n}").run(inputs))
            together.append(time.perf_counter() - start)
            failed = [outcome.reason for outcome in outcomes if outcome.error]
            assert not failed, failed  # noqa: S101
    report(alone, together, len(outcomes), hands, device.type)


class Taken(NamedTuple):
    """Seconds for all cases: by the clock, and of all processors together."""

    wall: float
    processor: float


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


def one_after_other(stages: tuple[Stage, ...], inputs: list[Any]) -> dict[str, Taken]:
    """Return what each stage takes for all, alone."""
    taken, values, stop = {}, inputs, StopToken()
    for n, stage in enumerate(stages):

        def work(value: Any, stage: Stage = stage, first: bool = not n) -> list[Any]:
            done = stage.work(value, stop)
            return list(done) if first else [done]

        with ThreadPoolExecutor(stage.workers) as pool:
            start, used = time.perf_counter(), time.process_time()
            values = [found for some in pool.map(work, values) for found in some]
            taken[stage.name] = Taken(time.perf_counter() - start, time.process_time() - used)
    return taken


def report(alone: dict[str, list[Taken]], together: list[float], cases: int, hands: Hands, device: str) -> None:
    """Print what was found: medians over the rounds."""
    seconds = {name: median(taken.wall for taken in times) for name, times in alone.items()}
    slowest = max(seconds, key=lambda name: seconds[name])
    rounds = list(zip(*alone.values(), strict=True))
    ratios = [max(stage.wall for stage in stages) / wall for stages, wall in zip(rounds, together, strict=True)]
    cores = os.cpu_count() or 1
    least = [sum(stage.processor for stage in stages) / cores for stages in rounds]
    busy = [floor / wall for floor, wall in zip(least, together, strict=True)]
    print(f"{cases} cases, network on {device}, {hands}, {cores} processors; s a case, each stage alone:")
    print("  " + "  ".join(f"{name} {taken / cases:.2f}" for name, taken in seconds.items()))
    print(f"one stage after the other   {60 * cases / sum(seconds.values()):8.1f} cases a minute")
    print(f"slowest stage alone         {60 * cases / seconds[slowest]:8.1f} cases a minute ({slowest})")
    print(f"all processors always busy  {60 * cases / median(least):8.1f} cases a minute")
    print(f"overlapped                  {60 * cases / median(together):8.1f} cases a minute")
    print(f"overlapped : slowest alone  {median(ratios):8.2f}  ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    print(f"overlapped : always busy    {median(busy):8.2f}  ({', '.join(f'{ratio:.2f}' for ratio in busy)})")


if __name__ == "__main__":
    main()
