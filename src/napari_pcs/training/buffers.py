"""Buffers, such as running statistics, that must not change where a pass does not come to its step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_pcs.objectives.task import Task

__all__ = ["buffers_kept"]


@contextmanager
def buffers_kept(task: Task) -> Iterator[Callable[[], None]]:
    """Put buffers back if the block fails; yield how to do so at any time."""
    before = {name: buffer.clone() for name, buffer in task.named_buffers()}

    def restore() -> None:
        with torch.no_grad():
            for name, buffer in task.named_buffers():
                buffer.copy_(before[name])

    try:
        yield restore
    except BaseException:
        restore()
        raise
