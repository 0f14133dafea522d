"""Measure the sulcus in a label file: find its frame, refuse what is no label map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.anatomy.checks import check_side
from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.landmarks import commissures_in_file
from napari_pcs.anatomy.length import Measurement, measure
from napari_pcs.anatomy.registration import register
from napari_pcs.anatomy.sources.tissue_map import case_of
from napari_pcs.bids import parse_key
from napari_pcs.case import check_labels
from napari_pcs.errors import FrameUnknownError, InputError
from napari_pcs.labels import Label
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_pcs.anatomy.preset import ClassPreset
    from napari_pcs.commissures import Commissures
    from napari_pcs.labels import Hemisphere

__all__ = ["measure_file"]


def measure_file(
    path: Path,
    preset: ClassPreset,
    *,
    label: int | None = None,
    commissures: Commissures | None = None,
    tissue: Path | None = None,
    hemisphere: Hemisphere | None = None,
) -> tuple[Measurement, Commissures]:
    """Measure one label of a label file.

    Parameters
    ----------
    path
        Label map.
    preset
        The protocol.
    label
        Value of the sulcus; the PCS's if not given.
    commissures
        The frame, where the caller knows it; otherwise the file's own, or from `tissue`.
    tissue
        Grey/white map of the hemisphere on the same grid, to be aligned if nothing else is known.
    hemisphere
        Side of `tissue`, where its name does not say it.

    Raises
    ------
    FrameUnknownError
        If there is no frame to measure in.
    InputError
        If the file is no label map, or nothing says what its only value means.
    """
    volume = Volume.read(path, may_be_empty=True)
    labels = _labels(volume, label)
    known = commissures or commissures_in_file(volume)
    if known is None and tissue is not None:
        known = _align(tissue, volume, hemisphere)
    try:
        return measure(labels, volume.affine, known, preset, Label.PCS if label is None else label), known  # type: ignore[return-value]
    except FrameUnknownError:
        raise
    except InputError as error:
        raise error.at(path) from None


def _labels(volume: Volume, label: int | None) -> NDArray[np.integer]:
    path = volume.path
    if label is not None:
        if not np.array_equal(volume.data, np.round(volume.data)):
            raise InputError(found="values that are not whole numbers", expected="a label map", path=path)
        return volume.data.astype(np.int64)
    try:
        labels = check_labels(volume.data)
    except InputError as error:
        raise error.at(path or "") from None
    if labels.max(initial=0) == Label.SKELETON and not _is_label_map(volume):
        raise InputError(
            found="a skeleton or a mask, with the value 1 alone",
            expected=f"a label map in which {int(Label.PCS)} is the PCS",
            advice=f"Give --label 1 to measure what is marked, or --label {int(Label.PCS)} if it is a label map of "
            "a hemisphere without PCS.",
            path=path,
        )
    return labels


def _is_label_map(volume: Volume) -> bool:
    """Say whether the name tells that a map of one value is a label map without PCS."""
    return volume.path is not None and volume.path.name.split(".")[0].endswith("_dseg")


def _align(path: Path, labels: Volume, hemisphere: Hemisphere | None) -> Commissures:
    volume = Volume.read(path)
    check_same_grid(labels, volume, "a tissue map")
    case, _ = case_of(volume, parse_key(path, hemisphere))
    check_side(case.tissue, case.key.hemisphere)
    if case.commissures is not None:
        return case.commissures
    return register(case.tissue, estimate_frame(case.tissue.data > 0, volume.spacing, case.key.hemisphere))
