"""Reversible edits: what an annotator changed, voxel by voxel, so that every state can be rebuilt."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Edit"]


class Edit(BaseModel):
    """The voxels that one saved sitting changed.

    Attributes
    ----------
    index
        Flat C-order voxel indices of the RAS array.
    before, after
        Values at those voxels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    editor: str
    seconds: float = Field(ge=0)
    index: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def between(cls, before: NDArray[np.uint8], after: NDArray[np.uint8], *, editor: str, seconds: float) -> Self:
        """Record the difference of two label maps of equal shape."""
        index = np.flatnonzero(before != after)
        return cls(
            editor=editor,
            seconds=seconds,
            index=tuple(index.tolist()),
            before=tuple(before.ravel()[index].tolist()),
            after=tuple(after.ravel()[index].tolist()),
        )

    def apply(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the labels with this edit made.

        Raises
        ------
        InputError
            If the labels are not in the state from which the edit was made.
        """
        result = labels.copy()
        flat, index = result.ravel(), list(self.index)
        if index and (max(index) >= flat.size or not np.array_equal(flat[index], self.before)):
            raise InputError(found="labels in another state", expected="the labels this edit was made on")
        flat[index] = self.after
        return result

    def inverse(self) -> Edit:
        """Return the edit that takes this one back."""
        return self.model_copy(update={"before": self.after, "after": self.before})
