"""Cases of a session as they are on the disk, the last few kept in memory: the next one is read before it is opened."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from napari_pcs.gui.opening import Opened, open_stored

if TYPE_CHECKING:
    from pathlib import Path

    from napari_pcs.bids import CaseKey
    from napari_pcs.session import Session

__all__ = ["CaseReader"]

_MOST = 3
_Stamp = tuple[tuple[str, int, int], ...]


class CaseReader:
    """Reads cases, and gives again what it has read as long as no file of it has changed. Safe for threads."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._read: OrderedDict[tuple[Path, CaseKey], tuple[_Stamp, Opened]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, session: Session, key: CaseKey) -> Opened:
        """Return a case of a session with its fold pieces.

        Raises
        ------
        InputError
            If a file is damaged or on another grid.
        """
        place, stamp = (session.root, key), _stamp(session, key)
        with self._lock:
            known = self._read.get(place)
            if known is not None and known[0] == stamp:
                self._read.move_to_end(place)
                return known[1]
        opened = open_stored(session, key)
        with self._lock:
            # A file that changed while it was read has another stamp by then, and is read again.
            self._read[place] = (stamp, opened)
            self._read.move_to_end(place)
            while len(self._read) > self._most:
                self._read.popitem(last=False)
        return opened


def _stamp(session: Session, key: CaseKey) -> _Stamp:
    """Return name, time of change (ns) and size of every file of a case."""
    files = (session.root / key.folder).glob(f"{key.stem}_*")
    return tuple(sorted((path.name, (found := path.stat()).st_mtime_ns, found.st_size) for path in files))
