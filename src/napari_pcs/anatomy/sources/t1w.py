"""A raw T1-weighted scan, with or without skull."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from napari_pcs.anatomy.landmarks import commissures_in_file
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources.base import Source
from napari_pcs.anatomy.tissue import few_values
from napari_pcs.bids import parse_key
from napari_pcs.case import Case
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_pcs.stop import StopToken

__all__ = ["T1Scan", "is_label_map"]

_SUFFIX = "_T1w"
_LABEL_LIKE = 0.7
"""Share of neighbours that are equal, above which an image is a map of labels; 0.9 in a parcellation, 0.1 in a T1."""


@dataclass(frozen=True)
class T1Scan(Source):
    """A T1w file, segmented when it is read."""

    kind: ClassVar[str] = "T1w scan"
    loading_share: ClassVar[float] = 0.97

    @classmethod
    def find(cls, path: Path) -> tuple[Source, ...]:
        """Recognise an image with many grey values; see `Source.find`."""
        if not path.is_file():
            return ()
        volume = Volume.read(path)
        if few_values(volume) is not None or is_label_map(volume.data):
            return ()
        return (cls.of(path),)

    @classmethod
    def of(cls, path: Path, session: str | None = None) -> T1Scan:
        """Return the source of a file that is known to be a T1w scan."""
        ending = "".join(s for s in path.suffixes if s in {".nii", ".gz", ".mgz", ".mgh"})
        name = path.name.removesuffix(ending).removesuffix(_SUFFIX)
        key = parse_key(name, Hemisphere.LEFT)
        return cls(path, key.subject, key.session if session is None else session)

    def load(self, hemispheres: tuple[Hemisphere, ...], stop: StopToken) -> Iterator[Step | Case]:
        """Segment the scan; see `Source.load`."""
        from napari_pcs.anatomy.t1.segment import segment_t1

        yield Step(f"Reading {self.path.name}", 0.0)
        t1 = Volume.read(self.path)
        known = commissures_in_file(t1)
        for event in segment_t1(t1, stop=stop):
            if isinstance(event, Step):
                yield event
                continue
            image = replace(event.image, path=self.path)
            for side in hemispheres:
                yield Case(self.key(side), event.tissue[side], image, commissures=known or event.commissures)


def is_label_map(data: NDArray[np.generic]) -> bool:
    """Say whether an image consists of regions of one value, as a parcellation does."""
    if data.dtype.kind == "f" and not np.array_equal(data, np.round(data)):
        return False
    inside = data[:-1] != 0
    return bool(inside.any() and (data[:-1] == data[1:])[inside].mean() > _LABEL_LIKE)
