"""What long work says while it goes on."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Step"]


class Step(NamedTuple):
    """The beginning of one step of long work.

    Attributes
    ----------
    sentence
        What is being done, for the user.
    fraction
        Share (0 to 1) of the expected time that was over before this step.
    """

    sentence: str
    fraction: float
