"""Homotopic thinning that keeps surfaces: the topology of an object, one voxel thick.

A voxel is *simple* when removing it changes neither the number of object components, nor of
cavities, nor of tunnels. For a 26-connected object and a 6-connected background this is decided
inside its 3 x 3 x 3 neighbourhood alone (Bertrand & Malandain 1994, Pattern Recognition Letters
15:169): exactly one 26-connected object component touches the voxel, and exactly one 6-connected
background component of its 18-neighbourhood is a face neighbour.

A neighbourhood is packed into the 27 low bits of an integer, so that growing a component is a
handful of bit operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["is_simple", "thin"]

_CENTRE = 13
_OBJECT, _ANCHOR, _SLIM = 1, 2, 4
"""States of a voxel, as bits; `_SLIM`, shifted by an axis, marks at most two object voxels in a row along it."""
_OFFSETS = [(i // 9 - 1, i // 3 % 3 - 1, i % 3 - 1) for i in range(27)]


def _mask(indices: list[int]) -> int:
    return sum(1 << i for i in indices)


def _adjacent(i: int, reach: int) -> list[int]:
    """Cells of the 3 x 3 x 3 cube that share a face (reach 1) or at least a corner (reach 3)."""
    a = _OFFSETS[i]
    steps = [[abs(p - q) for p, q in zip(a, b, strict=True)] for b in _OFFSETS]
    return [j for j, s in enumerate(steps) if j != i and max(s) <= 1 and sum(s) <= reach]


_FULL = _mask([i for i in range(27) if i != _CENTRE])
_FACES = _mask(_adjacent(_CENTRE, 1))
_N18 = _mask(_adjacent(_CENTRE, 2))
_CENTRAL_PLANES = [[i for i in range(27) if _OFFSETS[i][axis] == 0 and i != _CENTRE] for axis in range(3)]
_PLANES = np.array([_mask(plane) for plane in _CENTRAL_PLANES], dtype=np.int64)
_ACROSS = np.array([_FACES & _PLANES[(axis + 1) % 3] & _PLANES[(axis + 2) % 3] for axis in range(3)], dtype=np.int64)
_SIDES = np.array(
    [[_mask([i for i in range(27) if _OFFSETS[i][axis] == step]) for step in (-1, 1)] for axis in range(3)],
    dtype=np.int64,
)
_ADJ26 = np.array([_mask(_adjacent(i, 3)) & _FULL for i in range(27)], dtype=np.int64)
_ADJ6 = np.array([_mask(_adjacent(i, 1)) & _FULL for i in range(27)], dtype=np.int64)


@njit(cache=True, inline="never")
def _grow(seed: int, within: int, adjacency: NDArray[np.int64]) -> int:
    """Return the component of `within` that contains `seed`, by flooding."""
    component = seed
    frontier = seed
    while frontier:
        reached = 0
        for i in range(27):
            if frontier >> i & 1:
                reached |= adjacency[i]
        frontier = reached & within & ~component
        component |= frontier
    return component


@njit(cache=True)
def _simple_bits(bits: int) -> bool:
    objects = bits & _FULL
    if objects == 0:
        return False
    if _grow(objects & -objects, objects, _ADJ26) != objects:
        return False
    background = ~bits & _N18
    faces = background & _FACES
    if faces == 0:
        return False
    return bool((_grow(faces & -faces, background, _ADJ6) & faces) == faces)


@njit(cache=True)
def _pack(volume: NDArray[np.uint8], x: int, y: int, z: int) -> int:
    bits = 0
    for i in range(27):
        if volume[x + i // 9 - 1, y + i // 3 % 3 - 1, z + i % 3 - 1]:
            bits |= 1 << i
    return bits


@njit(cache=True)
def _count(bits: int) -> int:
    n = 0
    while bits:
        bits &= bits - 1
        n += 1
    return n


@njit(cache=True)
def _ends(line: int) -> bool:
    n = _count(line)
    return bool(n == 1 or (n == 2 and _grow(line & -line, line, _ADJ6) == line))


@njit(cache=True)
def _is_edge(bits: int, state: int) -> bool:
    """Say whether the voxel lies on the edge of a sheet of two voxels that has been peeled to one there.

    The object was at most two voxels thick along some axis and is one now. Of the two planes that
    hold this axis, one shows a line that ends at the voxel, the other a line that ends or passes; a
    row left on top of a solid fails.
    """
    for axis in range(3):
        if bits & _ACROSS[axis] or not state & _SLIM << axis:
            continue
        b, c = (axis + 1) % 3, (axis + 2) % 3
        # The plane without axis c holds axis b, and the cells of a side have a fixed step along it.
        end_b, end_c = _ends(bits & _PLANES[c]), _ends(bits & _PLANES[b])
        if end_b and (end_c or (bits & _PLANES[b] & _SIDES[c, 0] and bits & _PLANES[b] & _SIDES[c, 1])):
            return True
        if end_c and bits & _PLANES[c] & _SIDES[b, 0] and bits & _PLANES[c] & _SIDES[b, 1]:
            return True
    return False


@njit(cache=True)
def _peel(volume: NDArray[np.uint8], order: NDArray[np.int64], rim: int) -> int:
    """One sweep in the given order over border voxels; returns how many were removed.

    The volume holds states: `_OBJECT`, with `_ANCHOR` where edges are kept and `_SLIM` by axis.
    """
    _, ny, nz = volume.shape
    removed = 0
    for flat in order:
        x, y, z = flat // (ny * nz), flat // nz % ny, flat % nz
        if not volume[x, y, z]:
            continue
        bits = _pack(volume, x, y, z)
        state = volume[x, y, z]
        kept = state & _ANCHOR and (_count(bits & _FULL) <= rim or _is_edge(bits, state))
        if not kept and _simple_bits(bits):
            volume[x, y, z] = 0
            removed += 1
    return removed


def is_simple(neighbourhood: NDArray[np.bool_]) -> bool:
    """Say whether the centre of a 3 x 3 x 3 boolean block is a simple voxel."""
    bits = _pack(np.ascontiguousarray(neighbourhood, dtype=np.uint8), 1, 1, 1)
    return bool(_simple_bits(bits))


def _states(objects: NDArray[np.bool_], anchors: NDArray[np.bool_]) -> NDArray[np.uint8]:
    volume = objects * np.uint8(_OBJECT) + anchors * np.uint8(_ANCHOR)
    for axis in range(3):
        # A run of three puts a whole voxel between two faces; the volume's border is empty.
        middle = objects & np.roll(objects, 1, axis) & np.roll(objects, -1, axis)
        thick = middle | np.roll(middle, 1, axis) | np.roll(middle, -1, axis)
        volume[objects & ~thick] |= _SLIM << axis
    return volume * objects


def thin(
    objects: NDArray[np.bool_],
    priority: NDArray[np.floating],
    *,
    rim: int = 8,
    anchors: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Peel simple voxels off an object, those of lowest priority first, until none is left.

    Parameters
    ----------
    objects
        Boolean volume, axes (x, y, z).
    priority
        Volume of the same shape: a voxel with a higher value is removed later, so that the
        skeleton settles on the crest of this map.
    rim
        A voxel with at most this many of its 26 neighbours in the object is kept: it lies on the
        free edge of a sheet, and removing it would eat the sheet away. So is the edge of a sheet
        two voxels thick once its other voxel has gone.
    anchors
        Where edges are kept, by default everywhere. Elsewhere the object is peeled down to what
        its topology needs, such as a patch over a hole.

    Returns
    -------
    numpy.ndarray
        Boolean volume with the same components, tunnels and cavities as `objects`.

    Raises
    ------
    ValueError
        If the two volumes differ in shape.
    """
    if objects.shape != priority.shape:
        msg = f"The object has shape {objects.shape} and its priority {priority.shape}; they must be equal."
        raise ValueError(msg)
    volume = _states(np.pad(objects, 1), np.pad(objects if anchors is None else anchors, 1))
    flat = np.flatnonzero(volume)
    order = flat[np.argsort(np.pad(priority, 1).ravel()[flat], kind="stable")]
    while _peel(volume, order, rim):
        order = order[volume.ravel()[order] > 0]
    return volume[1:-1, 1:-1, 1:-1].astype(bool)
