"""The command line with a network that takes as long as it is told to, for tests of several processes.

Each case that comes to the network is written down in the file that QUICK_LOG names.
"""

import os
import time
from pathlib import Path

from quick_prediction import quick_prediction

from napari_pcs import cohort_prediction
from napari_pcs.cli import main
from napari_pcs.prediction import Stage


def steps(case, _network, model, _device, *, stop, **_options):
    yield Stage("network", "Running")
    with Path(os.environ["QUICK_LOG"]).open("a") as log:
        log.write(f"{os.environ.get('RANK', '0')} {case.key.stem}\n")
    ends = time.monotonic() + float(os.environ["QUICK_SECONDS"])
    while time.monotonic() < ends:
        stop.check()
        time.sleep(0.01)
    yield Stage("postprocess", "Measuring")
    yield quick_prediction(case, model)


if __name__ == "__main__":
    cohort_prediction.predict_steps = steps
    main()
