"""From a raw T1 scan to the tissue of both hemispheres and the commissures, with progress, stoppable anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.t1.bridge import require_ants
from napari_pcs.anatomy.t1.files import RESULT, SCAN
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.errors import InputError, PcsError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_pcs.stop import StopToken
    from napari_pcs.volume import Volume

__all__ = ["T1Segmentation", "segment_t1"]

_LISTEN_S = 0.1
_REPRODUCIBLE = {"ANTS_RANDOM_SEED": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
"""With two threads two runs differ by up to half a millimetre; the second thread saves little."""


@dataclass(frozen=True)
class T1Segmentation:
    """What a raw T1 scan gives.

    Attributes
    ----------
    image
        The scan with even brightness, float32, on its own grid.
    tissue
        Per hemisphere 0 outside and fluid, 1 grey, 2 white matter, uint8, on the scan's grid.
    commissures
        Frame with the affine from the scan's world mm to MNI152 mm.
    timings_s
        Seconds of each stage.
    """

    image: Volume
    tissue: Mapping[Hemisphere, Volume]
    commissures: Commissures
    timings_s: Mapping[str, float]


def segment_t1(t1: Volume, *, stop: StopToken) -> Iterator[Step | T1Segmentation]:
    """Segment a T1 scan with or without skull; nothing is written that outlives this call.

    The work runs in a process of its own, which is ended within a tenth of a second of `stop` being
    set, and when the iterator is closed.

    Parameters
    ----------
    t1
        The scan, voxels up to 3 mm.
    stop
        Checked throughout.

    Yields
    ------
    Step
        Before each stage.
    T1Segmentation
        Once, at the end.

    Raises
    ------
    InputError
        If ANTs is missing, or the scan is no T1 of a whole, upright brain whose hemispheres can be
        told apart.
    CancelledError
        If stopped.
    PcsError
        If ANTs itself fails.
    """
    require_ants()
    stop.check()
    with TemporaryDirectory(prefix="napari-pcs-") as name:
        folder = Path(name)
        np.savez(folder / SCAN, data=t1.data, affine=t1.affine)
        said: dict[str, Any] | None = None
        for message in _messages(folder, stop):
            stop.check()
            if "step" in message:
                yield Step(*message["step"])
            elif "refused" in message:
                raise InputError(**message["refused"], path=t1.path)
            else:
                said = message["done"]
        if said is None:
            msg = "The segmentation ended without a result. Try again."
            raise PcsError(msg)
        yield _collect(t1, folder, said)


def _messages(folder: Path, stop: StopToken) -> Iterator[dict[str, Any]]:
    """Run the worker and yield what it says; it does not outlive this iterator."""
    environment = {**os.environ, **_REPRODUCIBLE}
    command = [sys.executable, "-m", "napari_pcs.anatomy.t1.worker", str(folder)]
    with TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603  our own module, in this Python
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, encoding="utf-8"
        )
        over = threading.Event()
        watcher = threading.Thread(target=_end_when_stopped, args=(process, stop, over), daemon=True)
        watcher.start()
        try:
            for line in process.stdout or ():
                yield json.loads(line)
            process.wait()
        finally:
            over.set()
            process.kill()
            process.wait()
            watcher.join()
            if process.stdout:
                process.stdout.close()
        stop.check()
        if process.returncode:
            raise PcsError(_complaint(errors, process.returncode))


def _end_when_stopped(process: subprocess.Popen[str], stop: StopToken, over: threading.Event) -> None:
    while not over.wait(_LISTEN_S):
        if stop.is_set():
            process.kill()
            return


def _complaint(errors: IO[bytes], code: int) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    said = lines[-1] if lines else "it said nothing; it may have run out of memory"
    return f"The segmentation failed (exit code {code}): {said}. Close other programs and try again."


def _collect(t1: Volume, folder: Path, said: dict[str, Any]) -> T1Segmentation:
    with np.load(folder / RESULT) as result:
        image = t1.with_data(result["image"])
        tissue = {h: t1.with_data(result[h.name]) for h in Hemisphere}
        to_mni = result["to_mni"]
    without = "skull taken off, " if said["skull"] else ""
    detail = f"T1 to MNI152 (ICBM 2009a), {without}affine, r = {said['r']:.2f}"
    commissures = Commissures.from_mni(to_mni, FrameSource.REGISTRATION, detail)
    return T1Segmentation(image, tissue, commissures, said["timings_s"])
