"""Length of a sulcus in millimetres: geodesic along its skeleton, across short interruptions.

A chord underestimates a sulcus that curves round the genu (by 12 % on a 100-degree arc of radius
38 mm), and the shortest path on the 26-neighbour graph overestimates it by 6 to 10 %, because it
zigzags. Smoothing that path before measuring it brings the error to a few per cent.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.anatomy.preset import ClassPreset

__all__ = ["Extent", "Measurement", "Piece", "measure", "path_length"]

MIN_PIECE_VOXELS = 5
"""Smaller islands are specks of paint, not fold."""
SMOOTHING_SAMPLES = 2.0
_CUBE = np.ones((3, 3, 3), dtype=bool)
_HALF_NEIGHBOURS = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Piece(_Frozen):
    """One connected piece of the sulcus."""

    id: int
    voxels: int
    length_mm: float


class Extent(_Frozen):
    """Bounds of the sulcus in the image's own RAS millimetres."""

    anterior: float
    posterior: float
    superior: float
    inferior: float


class Measurement(_Frozen):
    """Length of a sulcus and how it was put together.

    Attributes
    ----------
    length_mm
        Pieces and bridged gaps of the longest chain; 0 when nothing is labelled.
    pcs_class
        Class under `preset`.
    pieces
        All pieces, longest first.
    gaps_mm
        Gaps that were bridged.
    extent_mm
        None when nothing is labelled.
    """

    length_mm: float
    pcs_class: str
    preset: str
    pieces: tuple[Piece, ...]
    gaps_mm: tuple[float, ...]
    extent_mm: Extent | None


def path_length(points: NDArray[np.floating]) -> float:
    """Return the length of a polyline (n, 3) in mm after smoothing it, its two ends held."""
    if len(points) < 2:
        return 0.0
    smooth = ndimage.gaussian_filter1d(points, SMOOTHING_SAMPLES, axis=0, mode="nearest")
    smooth[0], smooth[-1] = points[0], points[-1]
    return float(np.linalg.norm(np.diff(smooth, axis=0), axis=1).sum())


def _graph(index: NDArray[np.intp], spacing: NDArray[np.floating]) -> sparse.csr_array:
    """26-neighbour graph of one piece; edge weights in mm."""
    shape = index.max(axis=0) + 3
    node = np.full(shape, -1, dtype=np.int64)
    node[tuple((index + 1).T)] = np.arange(len(index))
    rows, columns, weights = [], [], []
    for step in _HALF_NEIGHBOURS:
        there = node[tuple((index + 1 + step).T)]
        here = np.flatnonzero(there >= 0)
        rows.append(here)
        columns.append(there[here])
        weights.append(np.full(len(here), np.linalg.norm(spacing * step)))
    joined = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(joined, shape=(len(index), len(index)))


def _longest_path(index: NDArray[np.intp], spacing: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the points (mm) of the shortest path between the two ends that lie farthest apart."""
    graph = _graph(index - index.min(axis=0), spacing)
    start = int(np.argmax(csgraph.dijkstra(graph, directed=False, indices=0)))
    distance, previous = csgraph.dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    path = [int(np.argmax(distance))]
    while path[-1] != start:
        path.append(int(previous[path[-1]]))
    return index[path] * spacing


def _piece_length(index: NDArray[np.intp], spacing: NDArray[np.floating]) -> float:
    """Geodesic length in mm, with the half voxel that each end occupies beyond its centre."""
    points = _longest_path(index, spacing)
    ends = float(np.linalg.norm(points[0] - points[-1]))
    direction = np.abs(points[0] - points[-1]) / ends if ends else np.zeros(3)
    return path_length(points) + float(direction @ spacing)


def _chains(
    pieces: list[NDArray[np.floating]], max_gap_mm: float
) -> tuple[NDArray[np.int32], list[tuple[int, int, float]]]:
    """Join pieces across the shortest gaps; return each piece's chain and the gaps used."""
    n = len(pieces)
    gaps = np.zeros((n, n))
    trees = [cKDTree(p) for p in pieces]
    for a, b in combinations(range(n), 2):
        gap = float(trees[a].query(pieces[b])[0].min())
        if gap <= max_gap_mm:
            gaps[a, b] = gap
    spanning = csgraph.minimum_spanning_tree(sparse.csr_array(gaps))
    _, chain = csgraph.connected_components(spanning, directed=False)
    used = spanning.tocoo()
    return chain, [(int(a), int(b), float(g)) for a, b, g in zip(*used.coords, used.data, strict=True)]


def measure(
    sulcus: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    preset: ClassPreset,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Measurement:
    """Measure a labelled sulcus.

    Parameters
    ----------
    sulcus
        Boolean volume, axes (x, y, z) in RAS order.
    spacing
        Voxel size in mm.
    preset
        Limits of the classes and the longest gap to bridge.
    origin
        World coordinates in mm of voxel (0, 0, 0), for the extent.
    """
    labels, n = ndimage.label(sulcus, _CUBE)
    step = np.asarray(spacing, dtype=float)
    found = [
        np.argwhere(labels[box] == i) + [s.start for s in box] for i, box in enumerate(ndimage.find_objects(labels), 1)
    ]
    kept = [index for index in found if len(index) >= MIN_PIECE_VOXELS]
    if n == 0 or not kept:
        return Measurement(
            length_mm=0.0, pcs_class=preset.classify(0.0), preset=preset.name, pieces=(), gaps_mm=(), extent_mm=None
        )
    lengths = np.array([_piece_length(index, step) for index in kept])
    chain, gaps = _chains([index * step for index in kept], preset.max_gap_mm)
    totals = np.bincount(chain, weights=lengths)
    for a, _, gap in gaps:
        totals[chain[a]] += gap
    best = int(np.argmax(totals))
    world = np.concatenate(kept) * step + np.asarray(origin)
    order = np.argsort(-lengths, kind="stable")
    return Measurement(
        length_mm=float(totals[best]),
        pcs_class=preset.classify(float(totals[best])),
        preset=preset.name,
        pieces=tuple(Piece(id=i, voxels=len(kept[k]), length_mm=float(lengths[k])) for i, k in enumerate(order, 1)),
        gaps_mm=tuple(gap for a, _, gap in gaps if chain[a] == best),
        extent_mm=Extent(
            anterior=world[:, 1].max(),
            posterior=world[:, 1].min(),
            superior=world[:, 2].max(),
            inferior=world[:, 2].min(),
        ),
    )
