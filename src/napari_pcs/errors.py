"""Errors that a person may read: what was found, what was expected, what to do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["CancelledError", "FrameUnknownError", "InputError", "ModelError", "PcsError", "SessionError"]


class PcsError(Exception):
    """Root of every error whose message may be shown to the user as it stands."""


class InputError(PcsError):
    """A file or an array is not what the software can work with.

    Parameters
    ----------
    found
        What was there.
    expected
        What would have been right.
    advice
        What the user can do about it.
    path
        The file concerned, if there is one.
    """

    def __init__(self, *, found: str, expected: str, advice: str = "", path: Path | str | None = None) -> None:
        self.found, self.expected, self.advice = found, expected, advice
        self.path = None if path is None else Path(path)
        name = f"{self.path.name}: " if self.path else ""
        sentence = f"{name}found {found}, expected {expected}."
        super().__init__(f"{sentence} {advice}".strip())

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how to make it again in another process."""
        return partial(type(self), found=self.found, expected=self.expected, advice=self.advice, path=self.path), ()

    def at(self, path: Path | str) -> InputError:
        """Return the same error naming the file it came from."""
        return InputError(found=self.found, expected=self.expected, advice=self.advice, path=path)


class SessionError(PcsError):
    """A session folder cannot be read or written; what was there before is untouched."""


class ModelError(PcsError):
    """A model folder is missing, incomplete or does not fit the network it names."""


class CancelledError(PcsError):
    """The user stopped the work."""


class FrameUnknownError(InputError):
    """Length and class were asked for where nobody knows the AC-PC frame."""

    def __init__(self) -> None:
        super().__init__(
            found="no AC, PC and midline for this image",
            expected="a frame to measure length and class in",
            advice="Set AC and PC by two clicks in the viewer, give the tissue map to align, or say that world "
            "coordinates are already AC-PC aligned.",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how to make it again in another process."""
        return type(self), ()
