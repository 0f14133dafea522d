"""A subject of Morphologist (BrainVISA): grey/white maps, T1, commissures and its own skeletons.

The tree of a subject is::

    <subject>/t1mri/<acquisition>/<subject>.nii.gz
    <subject>/t1mri/<acquisition>/<subject>.APC
    <subject>/t1mri/<acquisition>/<analysis>/segmentation/{L,R}grey_white_<subject>.nii.gz
    <subject>/t1mri/<acquisition>/<analysis>/segmentation/{L,R}skeleton_<subject>.nii.gz
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from napari_pcs.anatomy.checks import check_same_subject, side_name
from napari_pcs.anatomy.landmarks import commissures_in_file
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources.apc import read_apc
from napari_pcs.anatomy.sources.base import Source
from napari_pcs.anatomy.sources.skeletons import read_skeleton
from napari_pcs.anatomy.tissue import recognise
from napari_pcs.case import Case, LabelRole
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.provenance import Provenance
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_pcs.commissures import Commissures
    from napari_pcs.stop import StopToken

__all__ = ["MorphologistSubject"]

_SEGMENTATION = "t1mri/*/*/segmentation"
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")
_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class MorphologistSubject(Source):
    """One analysis of one acquisition; `path` is the analysis' folder."""

    kind: ClassVar[str] = "Morphologist subject"

    @classmethod
    def find(cls, path: Path) -> tuple[Source, ...]:
        """Recognise a subject, a centre with subjects, or a database; see `Source.find`."""
        if not path.is_dir():
            return ()
        for depth in ("", "*/", "*/*/"):
            folders = sorted(p for p in path.glob(depth + _SEGMENTATION) if any(_maps(p).values()))
            if folders:
                return tuple(_source(folder, folders) for folder in folders)
        converted = sorted(path.glob(f"{_SEGMENTATION}/?grey_white_*.ima"))
        if converted:
            raise InputError(
                found="grey/white maps in GIS format",
                expected="NIfTI (.nii.gz)",
                advice="Convert them: AimsFileConvert -i X.ima -o X.nii.gz",
                path=converted[0],
            )
        return ()

    def load(self, hemispheres: tuple[Hemisphere, ...], stop: StopToken) -> Iterator[Step | Case]:
        """Read maps, T1, commissures and skeletons; see `Source.load`."""
        segmentation = self.path / "segmentation"
        maps = _maps(segmentation)
        t1_path = _t1(self.path)
        t1 = None
        if t1_path is not None:
            yield Step(f"Reading {t1_path.name}", 0.0)
            t1 = Volume.read(t1_path)
        for n, side in enumerate(hemispheres):
            stop.check()
            path = maps[side]
            if path is None:
                raise InputError(
                    found=f"no grey/white map of the {side_name(side)} hemisphere",
                    expected=f"{side.value}grey_white_*.nii.gz",
                    path=segmentation,
                )
            yield Step(f"Reading {path.name}", (n + 1) / (len(hemispheres) + 1))
            yield self._case(path, side, t1)

    def _case(self, path: Path, side: Hemisphere, t1: Volume | None) -> Case:
        volume = Volume.read(path)
        tissue = Volume(recognise(volume, side)[0], volume.affine, volume.header, volume.orientation, path)
        if t1 is not None:
            check_same_subject(tissue, t1)
        case = Case(self.key(side), tissue, t1 or tissue, commissures=_commissures(self.path, t1 or volume))
        skeleton_path = _first(path.parent, f"{side.value}skeleton_*")
        if skeleton_path is None:
            return case
        skeleton, labels = read_skeleton(skeleton_path)
        check_same_subject(tissue, skeleton)
        provenance = Provenance(
            manual=False,
            hemisphere=side.value,
            sources=(str(skeleton_path),),
            description="Skeleton extracted by Morphologist; nobody has marked which folds are PCS.",
        )
        return case.with_labels(LabelRole.REFERENCE, labels, provenance)


def _source(segmentation: Path, all_found: list[Path]) -> MorphologistSubject:
    analysis = segmentation.parent
    acquisition, subject = analysis.parent, analysis.parents[2]
    scans = [folder for folder in all_found if folder.parents[3] == subject]
    session = ""
    if len({folder.parents[1] for folder in scans}) > 1:
        session = acquisition.name
    if len(scans) > len({folder.parents[1] for folder in scans}):
        session += analysis.name
    held = tuple(side for side, path in _maps(segmentation).items() if path is not None)
    name = subject.name.removeprefix("sub-")
    return MorphologistSubject(analysis, _NOT_ALPHANUMERIC.sub("", name), _NOT_ALPHANUMERIC.sub("", session), held)


def _maps(segmentation: Path) -> dict[Hemisphere, Path | None]:
    return {side: _first(segmentation, f"{side.value}grey_white_*") for side in Hemisphere}


def _first(folder: Path, pattern: str) -> Path | None:
    """Return the image of that name; NIfTI only."""
    return next((p for ending in _ENDINGS for p in sorted(folder.glob(pattern + ending))), None)


def _t1(analysis: Path) -> Path | None:
    subject = analysis.parents[2].name
    return _first(analysis.parent, subject) or _first(analysis, f"nobias_{subject}")


def _commissures(analysis: Path, scan: Volume) -> Commissures | None:
    apc = next((p for folder in (analysis, analysis.parent) for p in sorted(folder.glob("*.APC"))), None)
    return commissures_in_file(scan) if apc is None else read_apc(apc, scan)
