"""A few unreadable files among thousands: replaced, named and counted, until there are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from napari_pcs.data.patch import Patch, PatchSource

__all__ = ["Failure", "Tally", "draw_or_replace"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Failure:
    """A hemisphere or image that could not be read."""

    index: int
    name: str
    reason: str


def draw_or_replace(
    source: PatchSource,
    index: int,
    size: tuple[int, ...],
    rng: np.random.Generator,
    tries: int,
    among: Sequence[int] | None = None,
) -> tuple[Patch | None, tuple[Failure, ...]]:
    """Draw a patch; where the file cannot be read, one from another file that `rng` chooses.

    It keeps no record, so it may run in any process: the same generator gives the same patch, in
    whatever order samples are drawn.

    Parameters
    ----------
    source, index, size, rng
        See `PatchSource.draw`.
    tries
        Files to try at most; see `Tally.limit`.
    among
        Files that may stand in, for example those that training may see; all of the source if None.

    Returns
    -------
    tuple
        The patch, None if every try failed; and what failed on the way.
    """
    failures: list[Failure] = []
    while True:
        try:
            return source.draw(index, size, rng), tuple(failures)
        except (InputError, OSError) as error:
            failures.append(Failure(index, source.names[index], str(error)))
        failed = {failure.index for failure in failures}
        left = [i for i in (range(len(source.names)) if among is None else among) if i not in failed]
        if not left or len(failures) >= tries:
            return None, tuple(failures)
        index = left[int(rng.integers(len(left)))]


class Tally:
    """Which files of a source could not be read, however many samples met them.

    Parameters
    ----------
    total
        Files of the source.
    share
        Share of them that may fail.
    """

    def __init__(self, total: int, share: float) -> None:
        self._total, self._share = total, share
        self._failures: dict[int, Failure] = {}

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Each unreadable file once, in the order in which they were met."""
        return tuple(self._failures.values())

    @property
    def limit(self) -> int:
        """Unreadable files that end a run: one more than the share allows, at most all."""
        return min(int(self._share * self._total + _ROUNDING) + 1, self._total)

    def add(self, failures: Iterable[Failure]) -> tuple[Failure, ...]:
        """Count what failed and return what was not known before, to be told once.

        Raises
        ------
        InputError
            If more than the share failed, or every file.
        """
        new = {failure.index: failure for failure in failures if failure.index not in self._failures}
        self._failures |= new
        if len(self._failures) >= self.limit:
            raise self.refusal()
        return tuple(new.values())

    def refusal(self) -> InputError:
        """Return the error that ends a run; it says how many files failed, and why the first one did."""
        n, first = len(self._failures), next(iter(self._failures.values()))
        reason = first.reason.rstrip(".")
        return InputError(
            found=f"{n} of {self._total} files that could not be read (first: {first.name}: {reason})",
            expected=f"no more than the share of {self._share:g} that is allowed",
            advice="Repair or remove them, or allow a larger share of unreadable files.",
        )
