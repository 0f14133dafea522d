"""What a loop tells about what it has reached, so that it can be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.data.health import Failure
    from napari_pcs.objectives.task import Batch
    from napari_pcs.training.events import Event
    from napari_pcs.training.loop import Loop

__all__ = ["Keeper"]


class Keeper:
    """Keeps what a loop has reached; this one keeps nothing. All methods may yield events."""

    def skipped(self, failures: tuple[Failure, ...]) -> Iterator[Event]:  # noqa: ARG002
        """Take note of files that could not be read."""
        yield from ()

    def stepped(self, loop: Loop) -> Iterator[Event]:  # noqa: ARG002
        """Keep what a step reached, if it is time to."""
        yield from ()

    def improved(self, loop: Loop) -> Iterator[Event]:  # noqa: ARG002
        """Keep the weights: no epoch was as good before."""
        yield from ()

    def epoch_over(self, loop: Loop, batch: Batch) -> Iterator[Event]:  # noqa: ARG002
        """Do what is to be done after an epoch; `batch` is one of its."""
        yield from ()
