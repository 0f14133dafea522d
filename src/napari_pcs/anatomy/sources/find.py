"""Recognise what a path holds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.anatomy.sources.bids import BidsScan
from napari_pcs.anatomy.sources.freesurfer import FastSurferSubject, FreeSurferSubject
from napari_pcs.anatomy.sources.morphologist import MorphologistSubject
from napari_pcs.anatomy.sources.probability import ProbabilityPair
from napari_pcs.anatomy.sources.t1w import T1Scan, is_label_map
from napari_pcs.anatomy.sources.tissue_map import TissueMap
from napari_pcs.case import is_morphologist_skeleton
from napari_pcs.errors import InputError
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from pathlib import Path

    from napari_pcs.anatomy.sources.base import Source
    from napari_pcs.labels import Hemisphere

__all__ = ["UNDERSTOOD", "find_in_folder", "find_sources"]

_FOLDERS: tuple[type[Source], ...] = (
    MorphologistSubject,
    FreeSurferSubject,
    FastSurferSubject,
    ProbabilityPair,
    BidsScan,
)
UNDERSTOOD = (
    "grey/white map (100, 200)",
    "tissue map (1 fluid, 2 grey, 3 white)",
    "probabilities of grey and white matter",
    "FreeSurfer ribbon",
    "Morphologist subject",
    "FreeSurfer or FastSurfer subject",
    "BIDS folder of T1w scans",
    "T1w scan",
)
_SHOWN = 6


def find_sources(path: Path, hemisphere: Hemisphere | None = None) -> tuple[Source, ...]:
    """Recognise a file or a folder by its content.

    Parameters
    ----------
    path
        A file, a subject's folder, or a folder of subjects.
    hemisphere
        Side to take; both, or the one that the name says, if None.

    Returns
    -------
    tuple
        At least one source.

    Raises
    ------
    InputError
        If nothing that is understood is there, it is incomplete or damaged, or nobody says which side it is.
    """
    if path.is_dir():
        found = find_in_folder(path)
        if not found:
            raise _nothing_in(path)
    else:
        found = _find_in_file(path)
    chosen = None if hemisphere is None else (hemisphere,)
    return tuple(replace(source, hemispheres=source.choose(chosen)) for source in found)


def find_in_folder(folder: Path) -> tuple[Source, ...]:
    """Recognise a subject's folder or a folder of subjects; none if it is neither.

    Raises
    ------
    InputError
        If it is incomplete or damaged.
    """
    return next((sources for kind in _FOLDERS if (sources := kind.find(folder))), ())


def _find_in_file(path: Path) -> tuple[Source, ...]:
    for kind in (ProbabilityPair, TissueMap, T1Scan):
        if found := kind.find(path):
            return found
    volume = Volume.read(path)
    values = np.unique(volume.data)
    if is_morphologist_skeleton(values):
        advice = "Give the subject's folder, or its grey/white map: the skeleton comes along as a reference."
        raise _not_understood(path, "a skeleton by Morphologist", advice)
    if is_label_map(volume.data):
        advice = "Of a FreeSurfer subject give the folder, not one file."
        raise _not_understood(path, f"a map of {len(values)} labels", advice)
    raise _not_understood(path, f"an image with {len(values)} different values", "")


def _nothing_in(folder: Path) -> InputError:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    if "session.json" in names:
        return _not_understood(folder, "a session of napari-pcs", "Open it as a session; its cases are prepared.")
    advice = "Give the subject's own folder, or the image files themselves."
    return _not_understood(folder, f"a folder with {shown}" if names else "an empty folder", advice)


def _not_understood(path: Path, found: str, advice: str) -> InputError:
    return InputError(found=found, expected="one of: " + "; ".join(UNDERSTOOD), advice=advice, path=path)
