"""What a tuned model has learnt from, what is new since, and in what order to go through both.

A model that learns from new corrections only forgets the earlier ones. So a share of what it is
shown are cases that it, or a model that it came from, has learnt from as they still are.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_pcs.errors import InputError, ModelError
from napari_pcs.files import write_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_pcs.bids import CaseKey

__all__ = ["Item", "Mix", "TuningRecord", "fresh_and_rehearsed", "items_of", "labels_digest"]

_FILE = "tuning.json"
_FRESH, _REHEARSED, _ROUND = 0, 1, 2
"""What is being shuffled; part of the seed, so that no two orders are one."""


class TuningRecord(BaseModel):
    """What a tuned model and all tuned models that it came from learnt from: `tuning.json` beside its weights.

    Attributes
    ----------
    trained
        Digest of the labels (`labels_digest`) with which each case was learnt last, by the case's stem.
    held_out
        Stems of the cases that judged this tuning.
    people_trained, people_held_out
        People (`CaseKey.subject`) who were on either side of any of the tunings. Nobody is on both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trained: dict[str, str]
    held_out: tuple[str, ...]
    people_trained: tuple[str, ...]
    people_held_out: tuple[str, ...]

    @classmethod
    def after(
        cls, before: TuningRecord | None, trained: Mapping[CaseKey, str], held_out: Collection[CaseKey]
    ) -> TuningRecord:
        """Return the record of a model after one more tuning.

        Parameters
        ----------
        before
            Of the model that it began from; None if that was never tuned. A tuning from random weights
            has none either: nothing of the earlier model is left in it.
        trained
            Digest of the labels of each case that it learnt from.
        held_out
            Cases that judged it.
        """
        people_trained = {key.subject for key in trained}
        people_held_out = {key.subject for key in held_out}
        learnt = {key.stem: digest for key, digest in trained.items()}
        if before is not None:
            people_trained |= set(before.people_trained)
            people_held_out |= set(before.people_held_out)
            learnt = {**before.trained, **learnt}
        return cls(
            trained=dict(sorted(learnt.items())),
            held_out=tuple(sorted(key.stem for key in held_out)),
            people_trained=tuple(sorted(people_trained)),
            people_held_out=tuple(sorted(people_held_out - people_trained)),
        )

    @classmethod
    def read(cls, model: Path) -> Self | None:
        """Read the record of a model's folder; None if the model was never tuned.

        Raises
        ------
        ModelError
            If it is damaged: without it nobody knows who must not judge.
        """
        try:
            return cls.model_validate(json.loads((model / _FILE).read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ValidationError) as error:
            msg = (
                f"Model {model.name}: found a {_FILE} that cannot be read, expected the record of what it was"
                " tuned on. Copy the whole folder again."
            )
            raise ModelError(msg) from error

    def write(self, model: Path) -> None:
        """Write the record into a model's folder.

        Raises
        ------
        SessionError
            If the disk is full or read-only.
        """
        write_json(model / _FILE, self.model_dump(mode="json"))


def labels_digest(labels: NDArray[np.integer], looked: NDArray[np.bool_] | None = None) -> str:
    """Return the digest (hex SHA-256) of a label map, and of what was looked at where it is partly done.

    Parameters
    ----------
    labels
        Values of the label table, whatever integers hold them.
    looked
        Voxels that were looked at, of the same shape; None for a case that is done. A case that is
        finished without another stroke is thus another one.
    """
    digest = hashlib.sha256(repr(labels.shape).encode())
    digest.update(np.ascontiguousarray(labels, dtype=np.uint8).data)
    if looked is not None:
        digest.update(b"partly done" + np.packbits(looked).tobytes())
    return digest.hexdigest()


def fresh_and_rehearsed(cases: Mapping[str, str], record: TuningRecord | None) -> tuple[list[str], list[str]]:
    """Part cases into those that a model has not learnt yet as they are, and those that it has.

    Parameters
    ----------
    cases
        Digest of the labels of each case, by its stem.
    record
        Of the model to start from; None if it was never tuned, and all cases are fresh.

    Returns
    -------
    tuple
        Stems of fresh cases (new, or changed since) and of those to rehearse, both sorted.
    """
    learnt = {} if record is None else record.trained
    known = {stem for stem, digest in cases.items() if learnt.get(stem) == digest}
    return sorted(cases.keys() - known), sorted(known)


class Item(NamedTuple):
    """One thing to be shown: a place in a view of a case."""

    case: str
    view: int
    place: int


def items_of(places: Mapping[str, int], views: int) -> list[Item]:
    """Return all items of cases.

    Parameters
    ----------
    places
        How many each case has, by its stem.
    views
        Of every case.
    """
    return [Item(stem, v, p) for stem, count in sorted(places.items()) for v in range(views) for p in range(count)]


class Mix:
    """The items of each round: so many rehearsed ones among the fresh.

    Any round can be had without those before it, and follows from the seed alone. Each pool is gone
    through in passes of all of its items, in an order of each pass's own, so that an item comes up
    again only when all others have.

    Parameters
    ----------
    fresh, rehearsed
        Items of cases that the model has not learnt yet, and of those that it has.
    share
        Of rehearsed items, 0 to 1, kept over any number of rounds; what one round cannot hold of it,
        the next makes up for. If one of the pools is empty, all come from the other.
    per_round
        Items of a round.
    seed
        Decides the order.

    Raises
    ------
    InputError
        If there is not a single item.
    """

    def __init__(
        self, fresh: Sequence[Item], rehearsed: Sequence[Item], *, share: float, per_round: int, seed: int
    ) -> None:
        if not fresh and not rehearsed:
            raise InputError(
                found="nothing to learn from",
                expected="at least one place in one case",
                advice="Correct a prediction and save it first.",
            )
        self._pools = tuple(fresh), tuple(rehearsed)
        self._share = 0.0 if not rehearsed else 1.0 if not fresh else share
        self._per_round, self._seed = per_round, seed

    def draw(self, number: int) -> tuple[Item, ...]:
        """Return the items of a round (counted from 0), in order."""
        begin, end = number * self._per_round, (number + 1) * self._per_round
        first, last = (self._rehearsed_until(n) for n in (begin, end))
        drawn = [*self._stretch(_FRESH, begin - first, end - last), *self._stretch(_REHEARSED, first, last)]
        order = np.random.default_rng([self._seed, _ROUND, number]).permutation(len(drawn))
        return tuple(drawn[i] for i in order)

    def _rehearsed_until(self, items: int) -> int:
        return int(self._share * items + 0.5)

    def _stretch(self, which: int, begin: int, end: int) -> list[Item]:
        """Return a stretch of the endless row of passes through a pool."""
        pool = self._pools[which]
        row: list[Item] = []
        while begin < end:
            turn, within = divmod(begin, len(pool))
            order = np.random.default_rng([self._seed, which, turn]).permutation(len(pool))
            taken = order[within : within + end - begin]
            row += [pool[i] for i in taken]
            begin += len(taken)
        return row
