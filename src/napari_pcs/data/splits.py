"""Splits by person: two hemispheres, or two scans, of one person never part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from napari_pcs.bids import CaseKey

__all__ = ["hold_out", "hold_out_again", "people_to_hold_out"]


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


def hold_out_again(
    keys: Collection[CaseKey],
    share: float,
    seed: int,
    trained_before: Collection[str] = (),
    held_out_before: Collection[str] = (),
    partly_done: Collection[CaseKey] = (),
) -> tuple[list[CaseKey], list[CaseKey]]:
    """Split the cases of a session that has grown since a model, or its ancestors, were tuned on it.

    Who trained an ancestor never judges; who judged one never trains. Only people who are new are
    assigned, so that the share is approached from wherever those before have left it.

    Parameters
    ----------
    keys
        All labelled cases, those that are partly done among them.
    share
        Share of the people to hold out; see `hold_out`. The share may be exceeded by those who judged
        before, and missed where too few people are new.
    seed
        The same people and seed give the same split, whatever the order of `keys`. Without anybody
        before, and without cases that are partly done, it is the split of `hold_out`.
    trained_before, held_out_before
        People (`CaseKey.subject`) on either side of the tunings that led to the model. Somebody on both
        trained.
    partly_done
        Cases without labels throughout. They train, but never judge, so that somebody who has no
        others is not newly held out; those of a person who is held out are used for nothing and are in
        neither list.

    Returns
    -------
    tuple
        Cases to train on and cases to judge by, both sorted. The first is empty if all people judged
        before.
    """
    whole = set(keys) - set(partly_done)
    people = {key.subject for key in keys}
    judges = {key.subject for key in whole} - set(trained_before)
    held_out = people & set(held_out_before) - set(trained_before)
    missing = _count(len(people), share) - len(held_out & judges)
    # Somebody trains already, or one of the new people has to be left to it.
    room = len(people - held_out) - 1
    new = [name for name in _shuffled(people, seed) if name in judges - held_out]
    held_out |= set(new[: max(0, min(missing, room))])
    training = sorted(key for key in keys if key.subject not in held_out)
    return training, sorted(key for key in whole if key.subject in held_out)


def people_to_hold_out(people: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """Choose people to hold out; see `hold_out`. Each may be named many times."""
    names = set(people)
    return frozenset(_shuffled(names, seed)[: _count(len(names), share)])


def _count(people: int, share: float) -> int:
    """How many of so many people to hold out: at least one if any, never all."""
    return min(max(1, round(share * people)), people - 1) if share > 0 and people > 1 else 0


def _shuffled(names: Collection[str], seed: int) -> list[str]:
    ordered = sorted(names)
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
