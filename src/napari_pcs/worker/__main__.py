"""`python -m napari_pcs.worker`: started by `worker.client`, not by a person."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil

from napari_pcs.heap import reuse
from napari_pcs.unwanted import spare_transformers
from napari_pcs.worker.channel import Channel
from napari_pcs.worker.duties import Duties
from napari_pcs.worker.server import Server

if TYPE_CHECKING:
    from napari_pcs.worker.server import Work

__all__ = ["main"]

_NICENESS, _NICEST = 5, 19
_LOOK_EVERY_S = 1.0
_NOT_A_PERSON = (
    "Error: found a terminal, expected requests from napari-pcs, one JSON object a line. Start napari instead, or"
    " see `napari-pcs --help` for what can be done from the command line."
)


def main(work: Work | None = None) -> int:
    """Serve whoever has started this process until it is gone.

    Parameters
    ----------
    work
        What is done for a request; predicting, prefetching and tuning if left out.
    """
    if sys.stdin is None or sys.stdin.isatty():
        print(_NOT_A_PERSON, file=sys.stderr)  # noqa: T201  it is for the terminal
        return 2
    channel = Channel.of_this_process()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    faulthandler.enable()
    give_way()
    reuse()
    spare_transformers()
    threading.Thread(target=leave_with_parent, name="parent", daemon=True).start()
    Server(channel, work or Duties()).run()
    return 0


def give_way() -> None:
    """Let the viewer be served first where both want the processor.

    Threads take this over from the one that starts them, so it comes before any library's.
    """
    process = psutil.Process()
    if sys.platform == "win32":
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        process.nice(min(process.nice() + _NICENESS, _NICEST))


def leave_with_parent() -> None:
    """End the process when the one that started it is gone, even if something else holds its end of the pipe."""
    parent = os.getppid()
    try:
        process = psutil.Process(parent)
        while os.getppid() == parent and process.is_running():
            time.sleep(_LOOK_EVERY_S)
    except psutil.NoSuchProcess:
        pass  # it was gone before it could be looked at
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
