"""A source: one scan of one person in one of the formats that are understood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from napari_pcs.anatomy.checks import check_side, side_name
from napari_pcs.anatomy.location import locate
from napari_pcs.anatomy.progress import Step
from napari_pcs.bids import CaseKey
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_pcs.case import Case
    from napari_pcs.stop import StopToken

__all__ = ["Source"]


@dataclass(frozen=True)
class Source(ABC):
    """One scan of one person, recognised but not read yet.

    Attributes
    ----------
    kind
        Name of the format, as shown to the user.
    path
        File or folder that identifies the scan.
    subject, session
        Identity of the cases that it gives; letters and digits only.
    hemispheres
        Sides that it holds; none if it holds one and its name does not say which.
    """

    kind: ClassVar[str]
    loading_share: ClassVar[float] = 0.3
    """Share of the time that reading takes; finding the commissures takes the rest."""

    path: Path
    subject: str
    session: str = ""
    hemispheres: tuple[Hemisphere, ...] = tuple(Hemisphere)

    @classmethod
    @abstractmethod
    def find(cls, path: Path) -> tuple[Source, ...]:
        """Return the sources of this format at a path; none if it is not of this format.

        Raises
        ------
        InputError
            If it is of this format, but damaged or incomplete.
        """

    @abstractmethod
    def load(self, hemispheres: tuple[Hemisphere, ...], stop: StopToken) -> Iterator[Step | Case]:
        """Yield steps, then one case per hemisphere, with commissures only if the files know them."""

    def key(self, hemisphere: Hemisphere) -> CaseKey:
        """Return the key of one of its cases."""
        return CaseKey(self.subject, self.session, hemisphere)

    def read(self, hemispheres: tuple[Hemisphere, ...] | None, stop: StopToken) -> Iterator[Step | Case]:
        """Read the scan.

        Parameters
        ----------
        hemispheres
            Sides to read; all that it holds if None.
        stop
            Checked between steps.

        Yields
        ------
        Step or Case
            Steps, and one case per hemisphere with the commissures from the files if they know
            them, from a registration otherwise.

        Raises
        ------
        InputError
            If a file is damaged, files do not belong together, or a side is not what it is said to be.
        CancelledError
            If stopping was asked for.
        """
        chosen = self.choose(hemispheres)
        stop.check()
        loaded: list[Case] = []
        for event in self.load(chosen, stop):
            stop.check()
            if isinstance(event, Step):
                yield Step(event.sentence, event.fraction * self.loading_share)
            else:
                check_side(event.tissue, event.key.hemisphere)
                loaded.append(event)
        for n, case in enumerate(loaded):
            fraction = self.loading_share + (1 - self.loading_share) * n / len(loaded)
            if case.commissures is None:
                yield Step(f"Finding AC and PC of the {side_name(case.key.hemisphere)} hemisphere", fraction)
            stop.check()
            located, sentence = locate(case, stop)
            yield Step(sentence, fraction)
            yield located

    def choose(self, hemispheres: tuple[Hemisphere, ...] | None) -> tuple[Hemisphere, ...]:
        """Return the sides to read: those asked for, or all.

        Raises
        ------
        InputError
            If it does not hold a side that was asked for, or nobody says which side it is.
        """
        if hemispheres is None and not self.hemispheres:
            raise InputError(
                found="a name that does not say which hemisphere it is",
                expected="hemi-L or hemi-R in the name",
                advice="Choose left or right yourself.",
                path=self.path,
            )
        for side in hemispheres or ():
            if self.hemispheres and side not in self.hemispheres:
                raise InputError(
                    found=" and ".join(f"hemisphere {h.value}" for h in self.hemispheres),
                    expected=f"{side.value}, as chosen",
                    advice="Choose a side that it holds, or correct the name.",
                    path=self.path,
                )
        return hemispheres if hemispheres is not None else self.hemispheres
