"""Whatever goes wrong in the worker, as a sentence."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, NamedTuple

from napari_pcs.errors import PcsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.worker.messages import Request

__all__ = ["Failure", "failure_of"]

_DOING = {
    "warm": "Loading the model",
    "predict": "Predicting",
    "prefetch": "Predicting in advance",
    "tune": "Tuning",
}
_SMALLER = {"tune": "a smaller patch or the CPU"}
_LOST = ("CUDA error", "CUDNN_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_EXECUTION_FAILED", "MPS backend")


class Failure(NamedTuple):
    """What to tell and what to do.

    Attributes
    ----------
    sentence
        For a person.
    details
        Traceback, where the sentence does not say it all.
    no_memory
        Whether memory ran out, so that what can be loaded again should be let go.
    lost_device
        Whether this process cannot use its device any more; a new one may.
    """

    sentence: str
    details: str = ""
    no_memory: bool = False
    lost_device: bool = False


def failure_of(error: Exception, request: Request) -> Failure:
    """Say what an error means that ended a request."""
    doing = _DOING.get(getattr(request, "do", ""), "The work")
    no_memory = any(_is_out_of_memory(cause) for cause in _causes(error))
    details = "".join(traceback.format_exception(error))
    if isinstance(error, PcsError):
        return Failure(str(error), no_memory=no_memory)
    if no_memory:
        smaller = _SMALLER.get(getattr(request, "do", ""), "the CPU")
        advice = f"Choose {smaller}, or close other programs."
        return Failure(f"{doing} ran out of memory. {advice} Nothing was changed.", details, no_memory=True)
    if any(_is_of_device(cause) for cause in _causes(error)):
        sentence = f"{doing} ended because the GPU failed ({_first_line(error)}). Try again, or choose the CPU."
        return Failure(sentence, details, lost_device=True)
    return Failure(
        f"{doing} failed unexpectedly ({type(error).__name__}: {_first_line(error)}). The log has the details.", details
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from napari_pcs.training.step import is_out_of_memory

    return is_out_of_memory(error)


def _is_of_device(error: BaseException) -> bool:
    """Say whether CUDA has failed in a way after which a process has to start anew."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
