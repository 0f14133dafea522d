"""Who trains and who judges in a tuning, and what each round draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_pcs.data.rehearsal import Mix, TuningRecord, fresh_and_rehearsed, items_of
from napari_pcs.data.splits import hold_out_again
from napari_pcs.errors import InputError
from napari_pcs.training.features import Item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_pcs.bids import CaseKey
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.training.config import TuneConfig
    from napari_pcs.training.labelled import Labelled

__all__ = ["Roles", "cast"]


@dataclass(frozen=True)
class Roles:
    """Cases by what they do in a tuning.

    Attributes
    ----------
    cases
        All that there were. Those in neither of the following two are partly done ones of people who
        judge; who they are decides the split all the same.
    training, held_out
        No person is in both, nor was on the other side in a tuning that led to the model.
    rehearsed
        Names of training cases that the model has learnt before, as they still are.
    record
        Of this tuning, to be stored beside the new model.
    """

    cases: tuple[Labelled, ...]
    training: tuple[Labelled, ...]
    held_out: tuple[Labelled, ...]
    rehearsed: frozenset[str]
    record: TuningRecord
    config: TuneConfig

    def draw(self, number: int) -> list[Item]:
        """Return the patches of a round, counted from 0, in order."""
        config, cases = self.config, {case.name: case for case in self.training}
        pools = [
            # Views as they are come first, case by case: training begins when one case is prepared.
            sorted(items_of(dict.fromkeys(names, config.patches), config.views), key=lambda item: item.view)
            for names in (sorted(cases.keys() - self.rehearsed), sorted(self.rehearsed))
        ]
        per_round = config.batch_size * config.round_steps
        mix = Mix(*pools, share=config.rehearsal_share, per_round=per_round, seed=config.seed)
        return [Item(cases[item.case], item.view, item.place) for item in mix.draw(number)]


def cast(cases: Sequence[Labelled], model: ModelFolder, config: TuneConfig) -> Roles:
    """Give every case its role.

    Raises
    ------
    InputError
        If nobody is left to learn from.
    ModelError
        If the record of what the model learnt from is damaged.
    """
    by_key: dict[CaseKey, Labelled] = {case.key: case for case in cases}
    # Nothing of the earlier model is left in random weights.
    before = None if config.strategy == "scratch" else TuningRecord.read(model.path)
    training, held_out = hold_out_again(
        by_key,
        config.held_out_share,
        config.seed,
        before.people_trained if before else (),
        before.people_held_out if before else (),
        [key for key, case in by_key.items() if case.partly_done],
    )
    if not training:
        raise InputError(
            found=f"{len(cases)} corrected cases, all of people who judged {model.name} or its ancestors",
            expected="a case of somebody else to learn from",
            advice="Correct a case of another person, or tune the model that this one came from.",
        )
    digests = {key: by_key[key].labels for key in training}
    _, rehearsed = fresh_and_rehearsed({key.stem: digest for key, digest in digests.items()}, before)
    return Roles(
        cases=tuple(by_key.values()),
        training=tuple(by_key[key] for key in training),
        held_out=tuple(by_key[key] for key in held_out),
        rehearsed=frozenset(rehearsed),
        record=TuningRecord.after(before, digests, held_out),
        config=config,
    )
