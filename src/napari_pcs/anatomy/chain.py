"""Join the pieces of an interrupted sulcus: the longest way along their lines, across short gaps.

Adding up every piece within reach would count two parallel pieces, one beside the other, as twice
the sulcus. Here a sulcus is as long as the longest way that a rater's finger can follow: along the
lines, and over gaps between them where that is the shortest continuation. A gap costs a little
more than the same distance on a line, so that the way keeps to the fold as long as there is one.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial.distance import cdist

from napari_pcs.anatomy.line import polyline_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Chain", "longest_chain"]

_GAP_COST = 1.5


class Chain(NamedTuple):
    """The longest way: its length with gaps, the gaps in order, and which lines it uses."""

    length_mm: float
    gaps_mm: tuple[float, ...]
    members: tuple[int, ...]


def longest_chain(lines: Sequence[NDArray[np.floating]], max_gap_mm: float) -> Chain:
    """Return the longest way along polylines (k, 3) in mm, bridging gaps of at most `max_gap_mm`."""
    if not lines:
        return Chain(0.0, (), ())
    bridges = _bridges(lines, max_gap_mm)
    if not bridges:
        lengths = [polyline_length(line) for line in lines]
        best = int(np.argmax(lengths))
        return Chain(lengths[best], (), (best,))
    points = np.concatenate(lines)
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    graph = _graph(points, owner, bridges)
    cost, previous = csgraph.shortest_path(graph, directed=False, return_predecessors=True)
    ends = np.flatnonzero(np.diff(owner, prepend=-1) | np.diff(owner, append=-1))
    longest = Chain(-1.0, (), ())
    for a, b in combinations(ends.tolist(), 2):
        if np.isfinite(cost[a, b]) and cost[a, b] > longest.length_mm:
            found = _follow(points, owner, previous[a], a, b)
            longest = max(longest, found, key=lambda chain: chain.length_mm)
    return longest


def _bridges(lines: Sequence[NDArray[np.floating]], max_gap_mm: float) -> list[tuple[int, int, float]]:
    """Every pair of points of two lines within reach of one another: (point, point, mm)."""
    first = np.cumsum([0, *(len(line) for line in lines)])
    found = []
    for i, j in combinations(range(len(lines)), 2):
        apart = cdist(lines[i], lines[j])
        for a, b in np.argwhere(apart <= max_gap_mm):
            found.append((int(first[i] + a), int(first[j] + b), float(apart[a, b])))
    return found


def _graph(
    points: NDArray[np.floating], owner: NDArray[np.intp], bridges: list[tuple[int, int, float]]
) -> sparse.csr_array:
    along = np.flatnonzero(owner[1:] == owner[:-1])
    rows = [*along.tolist(), *(a for a, _, _ in bridges)]
    columns = [*(along + 1).tolist(), *(b for _, b, _ in bridges)]
    steps = np.linalg.norm(points[along + 1] - points[along], axis=1).tolist()
    weights = [max(w, 1e-9) for w in (*steps, *(_GAP_COST * gap for _, _, gap in bridges))]
    return sparse.csr_array((weights, (rows, columns)), shape=(len(points), len(points)))


def _follow(
    points: NDArray[np.floating], owner: NDArray[np.intp], previous: NDArray[np.intp], start: int, end: int
) -> Chain:
    way = [end]
    while way[-1] != start:
        way.append(int(previous[way[-1]]))
    length, gaps = 0.0, []
    for a, b in pairwise(reversed(way)):
        step = float(np.linalg.norm(points[a] - points[b]))
        length += step
        if owner[a] != owner[b]:
            gaps.append(step)
    return Chain(length, tuple(gaps), tuple(dict.fromkeys(owner[way[::-1]].tolist())))
