"""A BIDS folder of T1w scans."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from napari_pcs.anatomy.sources.t1w import T1Scan

if TYPE_CHECKING:
    from pathlib import Path

    from napari_pcs.anatomy.sources.base import Source

__all__ = ["BidsScan"]

_PLACES = ("", "anat/", "ses-*/anat/", "sub-*/anat/", "sub-*/ses-*/anat/")
_SCAN = re.compile(r"^(sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)((?:_[a-z]+-[A-Za-z0-9]+)*)_T1w\.nii(?:\.gz)?$")
_DERIVED = re.compile(r"_(?:space|desc|res|label|hemi)-")
_ENTITY = re.compile(r"_([a-z]+)-([A-Za-z0-9]+)")


class BidsScan(T1Scan):
    """One `*_T1w.nii[.gz]` of a dataset; further runs of a session are sessions of their own."""

    kind = "T1w scan of a BIDS folder"

    @classmethod
    def find(cls, path: Path) -> tuple[Source, ...]:
        """Find the scans of a dataset, subject, session or `anat` folder, but no derivatives; see `Source.find`."""
        if not path.is_dir():
            return ()
        scans = {
            p: match for place in _PLACES for p in sorted(path.glob(f"{place}sub-*_T1w.nii*")) if (match := _scan(p))
        }
        several = {m[1] for m in scans.values() if sum(m[1] == other[1] for other in scans.values()) > 1}
        return tuple(cls.of(p, _session(m, named=m[1] in several)) for p, m in sorted(scans.items()))


def _scan(path: Path) -> re.Match[str] | None:
    return None if _DERIVED.search(path.name) else _SCAN.match(path.name)


def _session(scan: re.Match[str], *, named: bool) -> str:
    """Return the session of a scan; where one session has several, with their other entities: `1run2`."""
    _, _, session = scan[1].partition("_ses-")
    return session + "".join(key + value for key, value in _ENTITY.findall(scan[2])) if named else session
