"""Splits by person: two hemispheres, or two scans, of one person never part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_pcs.bids import CaseKey

__all__ = ["hold_out", "people_to_hold_out"]


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
    chosen = people_to_hold_out([key.subject for key in keys], share, seed)
    return sorted(k for k in keys if k.subject not in chosen), sorted(k for k in keys if k.subject in chosen)


def people_to_hold_out(people: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """Choose people to hold out; see `hold_out`. Each may be named many times."""
    names = sorted(set(people))
    n = 0
    if share > 0 and len(names) > 1:
        n = min(max(1, round(share * len(names))), len(names) - 1)
    return frozenset(names[i] for i in np.random.default_rng(seed).permutation(len(names))[:n])
