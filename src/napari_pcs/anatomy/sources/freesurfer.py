"""A subject of FreeSurfer or FastSurfer: `ribbon.mgz` or `aseg.mgz`, the brain, and `talairach.xfm`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from napari_pcs.anatomy.checks import check_covered, check_order, check_same_subject
from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources.aseg import tissue_of_aseg
from napari_pcs.anatomy.sources.base import Source
from napari_pcs.anatomy.sources.talairach import read_talairach
from napari_pcs.anatomy.tissue import RIBBON, few_values, recognise
from napari_pcs.case import Case
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from napari_pcs.commissures import Commissures
    from napari_pcs.stop import StopToken

__all__ = ["FastSurferSubject", "FreeSurferSubject"]

_ASEG = ("aseg.mgz", "aseg.auto_noCCseg.mgz")
_STRIPPED = ("brain.mgz", "norm.mgz", "brainmask.mgz")
_IMAGES = (*_STRIPPED, "T1.mgz", "orig_nu.mgz", "orig.mgz")
_MAX_AC_ERROR_MM = 30.0
"""Between the AC by talairach.xfm and by the hemisphere's outline, which is good to a few millimetres."""
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")
_SESSION = re.compile(r"^(.+?)_ses-([A-Za-z0-9]+)$")


@dataclass(frozen=True)
class FreeSurferSubject(Source):
    """A subject with `mri/ribbon.mgz`."""

    kind: ClassVar[str] = "FreeSurfer subject (ribbon)"
    segmentations: ClassVar[tuple[str, ...]] = ("ribbon.mgz",)

    @classmethod
    def find(cls, path: Path) -> tuple[Source, ...]:
        """Recognise a subject, its `mri` folder, or a folder of subjects; see `Source.find`."""
        if not path.is_dir():
            return ()
        if path.name == "mri":
            path = path.parent
        if _segmentation(path, cls.segmentations):
            return (cls._of(path),)
        inside = (p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith("fsaverage"))
        return tuple(cls._of(p) for p in inside if _segmentation(p, cls.segmentations))

    @classmethod
    def _of(cls, folder: Path) -> FreeSurferSubject:
        name, session = folder.resolve().name.removeprefix("sub-"), ""
        if match := _SESSION.match(name):
            name, session = match.groups()
        return cls(folder, _NOT_ALPHANUMERIC.sub("", name), session)

    def load(self, hemispheres: tuple[Hemisphere, ...], stop: StopToken) -> Iterator[Step | Case]:
        """Read the segmentation, the brain and the transform; see `Source.load`."""
        path = _segmentation(self.path, self.segmentations)
        if path is None:
            raise InputError(found="no " + " or ".join(self.segmentations), expected="one in mri/", path=self.path)
        yield Step(f"Reading {path.name}", 0.0)
        halves = self._tissue(Volume.read(path))
        check_order(halves[Hemisphere.LEFT].data > 0, halves[Hemisphere.RIGHT].data > 0, path)
        stop.check()
        image = None
        image_path = next((p for name in _IMAGES if (p := path.parent / name).is_file()), None)
        if image_path is not None:
            yield Step(f"Reading {image_path.name}", 0.5)
            image = Volume.read(image_path)
            check_same_subject(halves[Hemisphere.LEFT], image)
        xfm = path.parent / "transforms" / "talairach.xfm"
        commissures = read_talairach(xfm) if xfm.is_file() else None
        for side in hemispheres:
            tissue = halves[side]
            if image is not None and image_path is not None and image_path.name in _STRIPPED:
                check_covered(tissue, image)
            if commissures is not None and (apart := _apart(commissures, tissue, side)) > _MAX_AC_ERROR_MM:
                yield Step(f"talairach.xfm is not used: its AC lies {apart:.0f} mm from where the brain has it", 0.9)
                commissures = None
            yield Case(self.key(side), tissue, image or tissue, commissures=commissures)

    def _tissue(self, volume: Volume) -> Mapping[Hemisphere, Volume]:
        values = few_values(volume)
        if values is None or not values <= RIBBON.values:
            shown = "many values" if values is None else "values " + ", ".join(str(v) for v in sorted(values)[:8])
            raise InputError(found=shown, expected=RIBBON.name, advice="Run recon-all again.", path=volume.path)
        return {side: _like(volume, recognise(volume, side)[0]) for side in Hemisphere}


@dataclass(frozen=True)
class FastSurferSubject(FreeSurferSubject):
    """A subject with `mri/aseg.mgz` and no ribbon, as FastSurfer's segmentation leaves it."""

    kind: ClassVar[str] = "FreeSurfer or FastSurfer subject (aseg)"
    segmentations: ClassVar[tuple[str, ...]] = _ASEG

    def _tissue(self, volume: Volume) -> Mapping[Hemisphere, Volume]:
        return {side: _like(volume, data) for side, data in tissue_of_aseg(volume).items()}


def _segmentation(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((p for name in names if (p := folder / "mri" / name).is_file()), None)


def _like(volume: Volume, data: np.ndarray) -> Volume:
    return Volume(data, volume.affine, volume.header, volume.orientation, volume.path)


def _apart(commissures: Commissures, tissue: Volume, side: Hemisphere) -> float:
    """Return the distance in mm between a given AC and the one that the outline suggests."""
    frame = estimate_frame(tissue.data > 0, tissue.spacing, side)
    estimated = tissue.affine[:3, :3] @ np.asarray(frame.origin) + tissue.affine[:3, 3]
    return float(np.linalg.norm(estimated - np.asarray(commissures.ac_mm)))
