"""Splits by person: two hemispheres, or two scans, of one person never part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_pcs.bids import CaseKey

__all__ = ["hold_out"]


def hold_out(keys: Sequence[CaseKey], share: float, seed: int) -> tuple[list[CaseKey], list[CaseKey]]:
    """Split cases into training and held-out ones.

    Parameters
    ----------
    keys
        All cases.
    share
        Share of the people to hold out; if it is not 0 and there are at least two people, at least
        one is held out, and never all.
    seed
        The same people and seed give the same split, whatever the order of `keys`.
    """
    people = sorted({key.subject for key in keys})
    n = 0
    if share > 0 and len(people) > 1:
        n = min(max(1, round(share * len(people))), len(people) - 1)
    chosen = {people[i] for i in np.random.default_rng(seed).permutation(len(people))[:n]}
    return sorted(k for k in keys if k.subject not in chosen), sorted(k for k in keys if k.subject in chosen)
