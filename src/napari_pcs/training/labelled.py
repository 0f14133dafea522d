"""Cases to tune on, which are read only when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from napari_pcs.data.bundles import bundle_key
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_pcs.bids import CaseKey
    from napari_pcs.case import Case

__all__ = ["Labelled"]


@dataclass(frozen=True)
class Labelled:
    """A case with labels to learn from.

    Attributes
    ----------
    key
        Subject, session and side.
    digest
        Changes with whatever tuning reads of the case: tissue, labels, what they were corrected from, commissures.
    labels
        Changes with the correction alone: one that was learnt is still known when its prediction is another.
    partly_done
        Whether its annotator has looked at a part of it only.
    load
        Reads it.
    """

    key: CaseKey
    digest: str
    labels: str
    partly_done: bool
    load: Callable[[], Case]

    @property
    def name(self) -> str:
        """Stem of the key."""
        return self.key.stem

    @classmethod
    def of(cls, case: Case) -> Self:
        """Return a case that is in memory.

        Raises
        ------
        InputError
            If it has neither a correction nor a reference.
        """
        if case.truth is None:
            raise InputError(
                found=f"{case.key.stem} without labels",
                expected="a correction or a reference",
                advice="Correct a prediction and save it first.",
            )
        truth = case.truth[1]
        looked = truth.provenance.model_dump_json(include={"partly_done", "looked_at"})
        digest = bundle_key(
            case.key.stem,
            case.tissue.data,
            case.tissue.affine,
            *(part for role, labels in sorted(case.labels.items()) for part in (role.value, labels.data)),
            str(case.commissures),
            looked,
        )
        known = bundle_key(case.key.stem, truth.data, looked)
        return cls(case.key, digest, known, truth.provenance.partly_done, lambda: case)
