"""Arrays kept on disk under a key, within a limit: what can be computed again, but not as fast as it is read.

One file a bundle, in the safetensors format, of which a reader maps what it needs. Processes may
share a folder: a file appears in full or not at all, and the least recently used go first when
there are more bytes than the limit. A file that is truncated or altered counts as none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Bundle", "Bundles", "bundle_key"]


@dataclass(frozen=True, eq=False)
class Bundle:
    """Arrays under one key.

    Attributes
    ----------
    arrays
        By name, memory-mapped and read-only.
    note
        Whatever was written beside them, of JSON types.
    """

    arrays: Mapping[str, NDArray[Any]]
    note: Mapping[str, Any]


def bundle_key(*parts: str | bytes | NDArray[np.generic]) -> str:
    """Return a key (hex SHA-256) of whatever decides the content: digests, names, arrays with their shapes and types."""
    raise NotImplementedError


class Bundles:
    """A folder of bundles.

    Parameters
    ----------
    folder
        Made when the first bundle is written. Where it refuses (full, read-only), bundles are not
        kept, and a warning is logged once.
    limit_bytes
        Most that all bundles together may take.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        raise NotImplementedError

    def read(self, key: str) -> Bundle | None:
        """Return the bundle of a key and note that it was used; None if there is no sound one."""
        raise NotImplementedError

    def has(self, key: str) -> bool:
        """Say whether there is a file for a key, without reading it."""
        raise NotImplementedError

    def write(self, key: str, arrays: Mapping[str, NDArray[Any]], note: Mapping[str, Any] | None = None) -> bool:
        """Keep arrays under a key; say whether they are kept. Older bundles make room."""
        raise NotImplementedError

    def discard(self, key: str) -> None:
        """Forget a bundle, if there is one."""
        raise NotImplementedError
