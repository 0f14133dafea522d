"""Length and class of labels while they are being edited, off the GUI thread: a slip of the brush may take seconds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_pcs.anatomy.length import measure_case
from napari_pcs.gui.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.anatomy.length import Measurement
    from napari_pcs.case import Case
    from napari_pcs.stop import StopToken

__all__ = ["Measuring"]


class Measuring:
    """Measures one label map after the other; of those that come while one is measured only the last counts.

    Parameters
    ----------
    show
        Gets every measurement that still counts, on the GUI thread; None where there is no frame to measure in.
    complain
        Gets a sentence if measuring fails.
    """

    def __init__(self, show: Callable[[Measurement | None], None], complain: Callable[[str], None]) -> None:
        self._show, self._complain = show, complain
        self._wanted: tuple[Case, NDArray[np.uint8]] | None = None
        self._job: Job | None = None

    def ask(self, case: Case, labels: NDArray[np.uint8]) -> None:
        """Have labels of a case measured, instead of any that wait; they must not be changed meanwhile."""
        self._wanted = (case, labels)
        if self._job is None:
            self._begin()

    def forget(self) -> None:
        """Let nothing come of what was asked for so far."""
        self._wanted = self._job = None

    def _begin(self) -> None:
        if self._wanted is None:
            return
        (case, labels), self._wanted = self._wanted, None

        def work(_stop: StopToken) -> Iterator[Any]:
            yield measure_case(case, labels)

        job = Job(f"Measuring {case.key.stem}", work)
        job.done.connect(partial(self._end, job, self._show))
        job.failed.connect(partial(self._end, job, self._complain))
        self._job = job
        job.start()

    def _end(self, job: Job, tell: Callable[[Any], None], result: Any) -> None:
        if self._job is not job:
            return
        self._job = None
        if self._wanted is None:
            tell(result)
        self._begin()
