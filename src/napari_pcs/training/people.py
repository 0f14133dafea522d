"""Who trains and who judges in a tuning, and what each round draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_pcs.data.rehearsal import Mix, TuningRecord, fresh_and_rehearsed
from napari_pcs.data.splits import hold_out_again
from napari_pcs.errors import InputError
from napari_pcs.training.features import Item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.training.config import TuneConfig
    from napari_pcs.training.labelled import Labelled

__all__ = ["Roles", "cast"]


@dataclass(frozen=True)
class Roles:
    """Cases by what they do in a tuning.

    Attributes
    ----------
    training, held_out
        No person is in both, nor has been in any ancestor of the model.
    record
        Of this tuning, to be stored beside the new model.
    """

    training: tuple[Labelled, ...]
    held_out: tuple[Labelled, ...]
    record: TuningRecord
    mix: Mix
    config: TuneConfig
