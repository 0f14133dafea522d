"""Length and class of a sulcus by a named protocol, in the AC-PC frame.

Every connected piece is measured along its hull-side line (see `line`), for a sulcus of the medial
wall the edge towards the midline; pieces are joined across gaps (see `chain`). Without the
commissures and the midline there is no such frame, and no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from napari_pcs.anatomy.chain import longest_chain
from napari_pcs.anatomy.line import hull_line, polyline_length, voxel_graph
from napari_pcs.anatomy.preset import DEFAULT_PRESET, ClassPreset
from napari_pcs.errors import FrameUnknownError, InputError
from napari_pcs.labels import LABELS, Label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.case import Case
    from napari_pcs.commissures import Commissures

__all__ = ["Extent", "Measurement", "Piece", "measure", "measure_case", "measure_mask"]

MIN_PIECE_VOXELS = 5
"""Smaller islands are specks of paint, not fold."""
_CUBE = np.ones((3, 3, 3), dtype=bool)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Piece(_Frozen):
    """One connected piece of the sulcus; `counted` if it is part of the length."""

    id: int
    voxels: int
    length_mm: float
    counted: bool


class Extent(_Frozen):
    """Bounds of the sulcus in mm from the AC, along the AC-PC line and upwards."""

    anterior: float
    posterior: float
    superior: float
    inferior: float


class Measurement(_Frozen):
    """Length of a sulcus and how it was put together.

    Attributes
    ----------
    length_mm
        The longest way along the pieces, bridged gaps included if the preset counts them; 0 when
        nothing is labelled.
    pcs_class, prominence
        Class and prominence under `preset`.
    pieces
        All pieces, longest first.
    gaps_mm
        Gaps that were bridged, from front to back or back to front.
    extent_mm
        Of everything that was measured; None when nothing is labelled.
    notes
        What a reader of the figures must know.
    """

    length_mm: float
    pcs_class: str
    prominence: Literal["absent", "present", "prominent"]
    preset: str
    pieces: tuple[Piece, ...]
    gaps_mm: tuple[float, ...]
    extent_mm: Extent | None
    notes: tuple[str, ...] = ()


def measure(
    labels: NDArray[np.integer],
    affine: NDArray[np.floating],
    commissures: Commissures | None,
    preset: ClassPreset,
    label: int = Label.PCS,
) -> Measurement:
    """Measure one label of a label map.

    Parameters
    ----------
    labels
        Label map, axes (x, y, z).
    affine
        (4, 4): voxel index to world mm.
    commissures
        The scan's frame.
    preset
        The protocol.
    label
        Value of the sulcus in the map.

    Raises
    ------
    FrameUnknownError
        If nobody knows the commissures.
    InputError
        If the protocol first identifies another sulcus, which the map does not have.
    """
    if commissures is None:
        raise FrameUnknownError
    notes = _notes(labels, preset) if label == Label.PCS else ()
    return measure_mask(labels == label, affine, commissures, preset, notes)


def measure_case(case: Case, labels: NDArray[np.integer], preset: ClassPreset = DEFAULT_PRESET) -> Measurement | None:
    """Measure the PCS of a label map of a case; None where nobody knows the case's commissures."""
    if case.commissures is None:
        return None
    return measure(labels, case.tissue.affine, case.commissures, preset)


def measure_mask(
    sulcus: NDArray[np.bool_],
    affine: NDArray[np.floating],
    commissures: Commissures,
    preset: ClassPreset,
    notes: tuple[str, ...] = (),
) -> Measurement:
    """Measure a mask, axes (x, y, z); see `measure`."""
    index = np.argwhere(sulcus)
    pieces = _pieces(index[preset.covers(_to_acpc(index, affine, commissures))])
    places = [_to_acpc(voxels, affine, commissures) for voxels in pieces]
    spacing = _spacing_in_frame(affine, commissures)
    lines = []
    for voxels, mm in zip(pieces, places, strict=True):
        lateral = mm[:, 0] * (np.sign(mm[:, 0].mean()) or 1.0)
        lines.append(hull_line(mm, voxel_graph(voxels, _spacing(affine)), lateral, spacing))
    chain = longest_chain(lines, preset.max_gap_mm)
    length = chain.length_mm - (0.0 if preset.counts_gaps else sum(chain.gaps_mm))
    lengths = [polyline_length(line) for line in lines]
    order = sorted(range(len(lines)), key=lambda k: (-lengths[k], k))
    return Measurement(
        length_mm=length,
        pcs_class=preset.classify(length),
        prominence=preset.prominence(length, sum(chain.gaps_mm)),
        preset=preset.name,
        pieces=tuple(
            Piece(id=n, voxels=len(pieces[k]), length_mm=lengths[k], counted=k in chain.members)
            for n, k in enumerate(order, 1)
        ),
        gaps_mm=chain.gaps_mm,
        extent_mm=_extent(np.concatenate(places)) if places else None,
        notes=notes,
    )


def _to_acpc(index: NDArray[np.intp], affine: NDArray[np.floating], commissures: Commissures) -> NDArray[np.float64]:
    return commissures.to_acpc(index @ affine[:3, :3].T + affine[:3, 3])


def _pieces(index: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Voxels of each connected piece, specks left out."""
    if len(index) == 0:
        return []
    # Only the box around the voxels is labelled: a head is mostly empty, and this runs at every stroke.
    low = index.min(axis=0)
    mask = np.zeros(index.max(axis=0) - low + 1, dtype=bool)
    mask[tuple((index - low).T)] = True
    labels, _ = ndimage.label(mask, _CUBE)
    boxes = ndimage.find_objects(labels)
    found = [np.argwhere(labels[box] == i) + [s.start for s in box] + low for i, box in enumerate(boxes, 1)]
    return [voxels for voxels in found if len(voxels) >= MIN_PIECE_VOXELS]


def _notes(labels: NDArray[np.integer], preset: ClassPreset) -> tuple[str, ...]:
    names = {entry.label: entry.name for entry in LABELS}
    missing = [label for label in preset.identify_first if not (labels == label).any()]
    needed = [names[label] for label in missing if label in preset.requires]
    if needed:
        raise InputError(
            found=f"no {' and no '.join(needed)} in the label map",
            expected=f"that protocol {preset.name!r} be followed, which identifies it before the PCS",
            advice="Label it, or measure by another protocol.",
        )
    return tuple(f"No {names[label]} is labelled; protocol {preset.name!r} looks for it first." for label in missing)


def _spacing(affine: NDArray[np.floating]) -> tuple[float, float, float]:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def _spacing_in_frame(affine: NDArray[np.floating], commissures: Commissures) -> tuple[float, float, float]:
    """Voxel size along the frame's own axes."""
    per_voxel = np.linalg.inv(affine[:3, :3])
    right, anterior, superior = (float(1 / np.linalg.norm(per_voxel @ axis)) for axis in commissures.axes)
    return right, anterior, superior


def _extent(mm: NDArray[np.floating]) -> Extent:
    (_, posterior, inferior), (_, anterior, superior) = mm.min(axis=0).tolist(), mm.max(axis=0).tolist()
    return Extent(anterior=anterior, posterior=posterior, superior=superior, inferior=inferior)
