"""Running the event loop until something is true."""

import time

from qtpy.QtWidgets import QApplication


def wait_for(condition, seconds=120.0):
    """Run the event loop until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        QApplication.processEvents()
        time.sleep(0.01)
    QApplication.processEvents()
