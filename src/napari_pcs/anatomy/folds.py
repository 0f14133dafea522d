"""Cut a skeleton into fold pieces: smooth sheets between junctions and sharp bends.

Where three sheets meet, or one turns sharply, the voxels around are far from any plane. Without
those the skeleton falls apart into smooth sheets; each takes back the voxels that are nearest to it
along the skeleton, and what is too small to be handled is absorbed by the neighbour with which it
shares most of its border.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csgraph

from napari_pcs.anatomy.line import voxel_graph
from napari_pcs.anatomy.sheets import local_shape, voxel_areas

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["MAX_ROUGHNESS_MM2", "MIN_PIECE_MM2", "cut_into_pieces"]

MAX_ROUGHNESS_MM2 = 0.3
"""A bend of 60 degrees reaches 0.23, one of 90 degrees 0.40, a junction of three sheets 0.44 and more."""
MIN_PIECE_MM2 = 20.0
"""A smaller piece is absorbed by a neighbour, if it has one."""
MIN_SEED_MM2 = 10.0


def cut_into_pieces(skeleton: NDArray[np.bool_], spacing: tuple[float, float, float]) -> NDArray[np.int32]:
    """Label the fold pieces of a skeleton.

    Parameters
    ----------
    skeleton
        Boolean volume, axes (x, y, z) in RAS order.
    spacing
        Voxel size in mm.

    Returns
    -------
    numpy.ndarray
        int32 volume: 0 outside the skeleton, then 1, 2, ... from the front to the back of the brain.
        The same skeleton always gives the same pieces with the same numbers.
    """
    out = np.zeros(skeleton.shape, dtype=np.int32)
    index = np.argwhere(skeleton)
    if len(index) == 0:
        return out
    shape = local_shape(skeleton, index, spacing)
    area = voxel_areas(shape.normals, spacing)
    graph = voxel_graph(index, spacing)
    seeds = _seeds(graph, shape.roughness <= MAX_ROUGHNESS_MM2, area)
    pieces = _absorb(graph, _nearest_seed(graph, seeds), area)
    out[tuple(index.T)] = _renumbered(pieces, index)
    return out


def _components(graph: sparse.csr_array, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the number of each chosen node's connected component, from 0; -1 for the others."""
    nodes = np.flatnonzero(chosen)
    labels = np.full(len(chosen), -1, dtype=np.intp)
    labels[nodes] = csgraph.connected_components(graph[nodes][:, nodes], directed=False)[1]
    return labels


def _seeds(graph: sparse.csr_array, smooth: NDArray[np.bool_], area: NDArray[np.float64]) -> NDArray[np.intp]:
    """Smooth sheets that are large enough; where a whole component has none, the component itself."""
    labels = _components(graph, smooth)
    size = np.bincount(labels[labels >= 0], weights=area[labels >= 0], minlength=1)
    seeds = np.where((labels >= 0) & (size[labels] >= MIN_SEED_MM2), labels, -1)
    whole = csgraph.connected_components(graph, directed=False)[1]
    seeded = np.zeros(whole.max() + 1, dtype=bool)
    seeded[whole[seeds >= 0]] = True
    lonely = ~seeded[whole]
    return np.asarray(np.where(lonely, whole + labels.max() + 1, seeds))


def _nearest_seed(graph: sparse.csr_array, seeds: NDArray[np.intp]) -> NDArray[np.intp]:
    """Give every voxel to the seed that is nearest along the skeleton; the lower number wins a tie."""
    starts = np.flatnonzero(seeds >= 0)
    starts = starts[np.argsort(seeds[starts], kind="stable")]
    _, _, source = csgraph.dijkstra(graph, directed=False, indices=starts, min_only=True, return_predecessors=True)
    return np.asarray(seeds[source])


def _absorb(graph: sparse.csr_array, pieces: NDArray[np.intp], area: NDArray[np.float64]) -> NDArray[np.intp]:
    """Merge each piece that is too small into the neighbour with the longest common border, smallest first."""
    _, pieces = np.unique(pieces, return_inverse=True)
    size = np.bincount(pieces, weights=area)
    border = _borders(graph, pieces)
    parent = np.arange(len(size))
    for small in np.lexsort((np.arange(len(size)), size)):
        if size[small] >= MIN_PIECE_MM2 or not border[small]:
            continue
        target = min(border[small], key=lambda other: (-border[small][other], other))
        parent[small] = target
        size[target] += size[small]
        for other, contacts in border[small].items():
            border[other].pop(small)
            if other != target:
                border[target][other] = border[other][target] = border[target].get(other, 0) + contacts
        border[small] = {}
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return np.asarray(parent[pieces])


def _borders(graph: sparse.csr_array, pieces: NDArray[np.intp]) -> list[dict[int, int]]:
    """For every piece, the pieces it touches and with how many pairs of voxels."""
    pairs = graph.tocoo()
    a, b = pieces[pairs.coords[0]], pieces[pairs.coords[1]]
    found: list[dict[int, int]] = [{} for _ in range(int(pieces.max()) + 1)]
    keys, counts = np.unique(np.stack([a[a != b], b[a != b]], axis=1), axis=0, return_counts=True)
    for (one, other), count in zip(keys.tolist(), counts.tolist(), strict=True):
        found[one][other] = count
    return found


def _renumbered(pieces: NDArray[np.intp], index: NDArray[np.intp]) -> NDArray[np.int32]:
    """Return numbers from 1 by the pieces' centres: from front to back, then from top to bottom, then by x."""
    _, pieces = np.unique(pieces, return_inverse=True)
    count = np.bincount(pieces)
    centres = [np.round(np.bincount(pieces, weights=index[:, axis]) / count, 3) for axis in range(3)]
    order = np.lexsort((centres[0], -centres[2], -centres[1]))
    number = np.empty(len(count), dtype=np.int32)
    number[order] = np.arange(1, len(count) + 1)
    return number[pieces]
