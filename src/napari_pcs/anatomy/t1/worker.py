"""The other process: `python -m napari_pcs.anatomy.t1.worker FOLDER` reads a scan there and leaves the result.

ANTs holds Python's lock for seconds and cannot be interrupted. In a process of its own it can be
ended at any time, and the window that waits for it stays alive.

Each line on standard output is a JSON object: a step, an error, or that the result is there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.t1.files import RESULT, SCAN
from napari_pcs.anatomy.t1.stages import run
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["main"]


def main(folder: Path, out: TextIO) -> None:
    """Segment the scan in a folder, telling of it on `out`."""
    with np.load(folder / SCAN) as scan:
        data, affine = scan["data"], scan["affine"]
    try:
        for event in run(data, affine):
            if isinstance(event, Step):
                _say(out, step=[event.sentence, event.fraction])
                continue
            arrays: dict[str, Any] = {h.name: event.tissue[h] for h in Hemisphere}
            np.savez(folder / RESULT, image=event.image, to_mni=event.to_mni, **arrays)
            _say(out, done={"r": event.correlation, "skull": event.skull, "timings_s": event.timings_s})
    except InputError as error:
        _say(out, refused={"found": error.found, "expected": error.expected, "advice": error.advice})


def _say(out: TextIO, **message: Any) -> None:
    print(json.dumps(message), file=out, flush=True)


if __name__ == "__main__":
    # ITK prints where it likes: our lines keep standard output, the rest goes to standard error.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        os.dup2(2, 1)
        main(Path(sys.argv[1]), lines)
