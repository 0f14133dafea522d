"""Every folder below one, links included, each once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["walk"]


def walk(root: Path) -> Iterator[tuple[Path, list[str], set[str]]]:
    """Yield each folder with its folders and its files, without what is hidden.

    Folders come in the order of their names; taking some off the list keeps the walk out of them.
    A link to a folder is followed, but no folder is visited twice.
    """
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        stat = Path(place).stat()
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield Path(place), folders, {n for n in names if not n.startswith(".")}
