"""Where on a hemisphere patches lie: around what was corrected, and where a paracingulate sulcus is or may be."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.anatomy.mni import TEMPLATE_LENGTH_MM
from napari_pcs.anatomy.priors import shipped_priors
from napari_pcs.commissures import AC_MNI
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.training.examples import Example

__all__ = ["MARGIN", "Box", "places"]

MARGIN = 4
"""Voxels at a face of a patch, within the image, that are not judged: convolutions see zeros beyond it.

On real hemispheres probabilities differed there from those of the whole by 0.27 in the outermost voxel, 0.12
in the fourth, 0.07 in the fifth and less further in (mean over the skeleton, largest of the two labels).
"""
_LATTICE = 4
"""Voxels between the points at which the frequency map is read."""
_MEDIAL_MM = 25.0
"""From the midline in MNI152; further out nobody has a paracingulate sulcus."""


@dataclass(frozen=True)
class Box:
    """A part of an image: its first voxel, and its voxels along x, y and z."""

    start: tuple[int, int, int]
    side: tuple[int, int, int]

    def judged(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the part of an image of that shape that lies in the box and not at a face cut through the image."""
        return tuple(
            slice(a + MARGIN * (a > 0), a + n - MARGIN * (a + n < whole))
            for a, n, whole in zip(self.start, self.side, shape, strict=True)
        )


def places(example: Example, side: int, count: int, stride: int, rng: np.random.Generator) -> tuple[Box, ...]:
    """Choose where the patches of an example lie.

    What a box holds is what is judged of it. The first holds as many of the changed voxels as any box
    can. The others are drawn, the likelier the more they hold of the labelled PCS, of where other
    people have theirs, and of the changes that no earlier box holds; each of the three has the same
    weight. Where other people have theirs is the frequency map that ships with the package, with its
    AC at the frame's origin and scaled to the length of the hemisphere.

    Parameters
    ----------
    example
        What to look at; what nobody has looked at counts for nothing.
    side
        Voxels of a patch along each axis, a multiple of `stride`; along an axis on which the image is
        shorter, the patch is as long as the image. 0: the whole image.
    count
        How many; fewer where there are not so many different ones.
    stride
        Boxes begin at multiples of this many voxels.
    rng
        Decides what is drawn.

    Returns
    -------
    tuple
        Boxes, no two the same, each with a voxel of the hemisphere that was looked at (padding is none).

    Raises
    ------
    InputError
        If nothing of the hemisphere was looked at, or boxes of that side and stride do not reach
        the end of the image.
    """
    seen = _seen(example)
    if not seen.any():
        raise InputError(
            found=f"nothing of {example.name} that was looked at", expected="slices that touch the hemisphere"
        )
    shape: tuple[int, int, int] = seen.shape
    if not side:
        return (Box((0, 0, 0), shape),)
    boxes = _Boxes(shape, side, stride)
    pcs = (example.targets[0, 1].numpy() > 0) & seen
    likely = _shares(boxes.sums(pcs)) + _shares(boxes.sums(_expected(example) * seen))
    allowed = boxes.sums(seen) > 0
    return tuple(boxes[n] for n in _draw(boxes, example.changed & seen, likely, allowed, count, rng))


class _Boxes:
    """All boxes of a side that begin at multiples of a stride, in the order of their first voxels."""

    def __init__(self, shape: tuple[int, int, int], side: int, stride: int) -> None:
        sides = [min(n, side) for n in shape]
        if any(
            length < n and (length % stride or (n - length) % stride) for n, length in zip(shape, sides, strict=True)
        ):
            raise InputError(
                found=f"patches of {side} voxels in an image of {' x '.join(map(str, shape))}",
                expected=f"multiples of the {stride} voxels that one value of the network stands for",
                advice="Choose another size of patches, or whole hemispheres.",
            )
        self._step = gcd(stride, MARGIN)
        self._shape = np.array(shape)
        starts = [np.arange(0, n - length + 1, stride) for n, length in zip(shape, sides, strict=True)]
        self._starts = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3)
        self._sides = np.array(sides)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Box:
        (x, y, z), (a, b, c) = self._starts[index].tolist(), self._sides.tolist()
        return Box((x, y, z), (a, b, c))

    @property
    def centres(self) -> NDArray[np.float64]:
        return np.asarray(self._starts + (self._sides - 1) / 2)

    def sums(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the sum of values (x, y, z) over what is judged of each box."""
        total = values
        # The last axis first: what lies side by side in memory is added five times as fast.
        for axis, n in reversed(list(enumerate(values.shape))):
            total = np.add.reduceat(total, np.arange(0, n, self._step), axis=axis, dtype=np.float64)
        for axis in range(3):
            total = np.cumsum(total, axis=axis)
        total = np.pad(total, [(1, 0)] * 3)
        ends = self._starts + self._sides
        begin = (self._starts + MARGIN * (self._starts > 0)) // self._step
        end = -(-(ends - MARGIN * (ends < self._shape)) // self._step)
        found = np.zeros(len(self))
        for corner in np.ndindex(2, 2, 2):
            # Inclusion and exclusion: a corner counts against the sum for each low end that it lies at.
            index = np.where(np.array(corner) == 1, end, begin)
            found += (-1) ** (3 - sum(corner)) * total[tuple(index.T)]
        # Differences of large sums leave crumbs where there is nothing.
        return np.where(found > 1e-9 * total[-1, -1, -1], found, 0)

    def inside(self, index: int) -> tuple[slice, ...]:
        return self[index].judged(tuple(self._shape))


def _draw(
    boxes: _Boxes,
    changed: NDArray[np.bool_],
    likely: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    count: int,
    rng: np.random.Generator,
) -> list[int]:
    """Return the numbers of boxes: that with most of the changes, then others by chance."""
    left = changed.copy()
    chosen: list[int] = []
    for _ in range(min(count, int(allowed.sum()))):
        changes = boxes.sums(left)
        if not chosen and left.any():
            number = _fullest(boxes, changes, left)
        else:
            weights = likely + _shares(changes)
            weights[chosen] = 0
            if not weights.any():
                # Where a PCS is out of the question, one place is as good as another.
                weights = allowed.astype(np.float64)
                weights[chosen] = 0
            number = int(rng.choice(len(weights), p=weights / weights.sum()))
        chosen.append(number)
        left[boxes.inside(number)] = False
    return chosen


def _fullest(boxes: _Boxes, changes: NDArray[np.float64], changed: NDArray[np.bool_]) -> int:
    """Return the box that holds most; of several, the one that has it nearest to its centre."""
    most = np.flatnonzero(changes == changes.max())
    inside = boxes.inside(int(most[0]))
    centre = np.argwhere(changed[inside]).mean(axis=0) + [part.start for part in inside]
    return int(most[np.argmin(np.linalg.norm(boxes.centres[most] - centre, axis=1))])


def _seen(example: Example) -> NDArray[np.bool_]:
    """Mark what was looked at of the hemisphere, without the padding."""
    looked = example.looked[0, 0].numpy()
    own = tuple(slice(n) for n in example.box)
    seen = np.zeros(looked.shape, dtype=bool)
    seen[own] = looked[own]
    return seen


def _expected(example: Example) -> NDArray[np.float32]:
    """Return the share of people (x, y, z) who have a paracingulate sulcus there; the network sees left sides only."""
    shape = example.looked.shape[2:]
    axes = [np.arange(0, n, _LATTICE) + (_LATTICE - 1) / 2 for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    mni = (points - example.origin) * (TEMPLATE_LENGTH_MM / example.box[1]) + AC_MNI
    medial = mni[..., 0] > -_MEDIAL_MM
    share = np.zeros(medial.shape, dtype=np.float32)
    share[medial] = shipped_priors(Hemisphere.LEFT).pcs.at(mni[medial])
    for axis, n in enumerate(shape):
        share = np.repeat(share, _LATTICE, axis=axis).take(np.arange(n), axis=axis)
    return share


def _shares(amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale amounts so that they add up to 1, or to 0 if there are none."""
    total = float(amounts.sum())
    return amounts / total if total else amounts
