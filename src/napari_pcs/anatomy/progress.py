"""What long anatomical work says about itself while it runs."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Step"]


class Step(NamedTuple):
    """The start of one stage.

    Attributes
    ----------
    sentence
        What is being done now, for a person to read.
    fraction
        Share of the expected time, 0 to 1, that is done before this step begins.
    """

    sentence: str
    fraction: float
