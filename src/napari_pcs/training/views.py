"""Views of a labelled hemisphere: as it is, and as it might have been had the head lain and been cut up otherwise.

Frozen values are computed on whole hemispheres, so a view is one of a whole hemisphere too, in
arrays of the same shape. It is turned and scaled a little, and then brought into its box as
`NetworkGrid.around` does it: content begins at voxel 0, padding is at the ends.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from napari_pcs.data.augment import Augmentation3D, draw_matrix, look

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.training.examples import Example

__all__ = ["VIEW", "view_of"]

VIEW = Augmentation3D(
    rotation_deg=4, scaling=0.03, ribbon=0.06, blur_mm=0.5, grey=0.05, contrast=0, gain=0.05, noise=0, blocks=0
)
"""Milder than for pre-training, and nothing that lets fluid differ from 0, since in a tissue map it never does."""
_SKELETON, _PCS, _CHANGED, _UNSEEN = 1, 2, 4, 8
"""Bits of a voxel, so that one resampling moves them all."""


def view_of(example: Example, number: int, seed: int, settings: Augmentation3D = VIEW) -> Example:
    """Return one of the views of an example.

    A voxel has the labels of the one in which its centre lies, and of those whose centres lie in it.
    So a sheet one voxel thick stays so, and no voxel of it is lost: on real skeletons the volume is
    within 4 % of what the scaling makes it, in a tenth more pieces. Interpolation with a threshold
    that keeps the volume leaves more than twice as many. The class stays, since lengths change by
    a few per cent at most.

    Parameters
    ----------
    example
        As `build_example` makes it.
    number
        0 is the example itself; each other number is a view of its own.
    seed
        The same view follows from the same name, number and seed.
    settings
        How far views differ from the example. Nothing is cut out of them, whatever `blocks` says:
        labels are to be found in what can be seen.

    Returns
    -------
    Example
        In arrays of the same shape. What no longer fits into them is cut off at the lateral,
        posterior and inferior ends, away from any paracingulate sulcus.
    """
    if number == 0:
        return example
    name = int.from_bytes(hashlib.sha256(example.name.encode()).digest()[:8], "little")
    rng = np.random.default_rng([seed, number, name])
    matrix = draw_matrix(rng, settings)
    tissue = example.image[0, 0].numpy()
    begin, box = _place(tissue, matrix)
    offset = matrix @ begin
    own = tuple(slice(n) for n in box)
    image = np.zeros((1, *example.image.shape[1:]), dtype=np.float32)
    seen = ndimage.affine_transform(tissue, matrix, offset, output_shape=box, order=1)
    image[0, 0][own] = look(seen[None], rng, settings.model_copy(update={"blocks": 0}))[0]
    for axis, channel in enumerate(example.image[0, 1:].numpy()):
        image[0, 1 + axis][own] = _position(channel, axis, example.box, box, matrix, offset)
    marks = np.zeros(tissue.shape, dtype=np.uint8)
    marks[own] = _moved(_marks(example), box, matrix, offset)
    targets = np.stack([marks & _SKELETON > 0, marks & _PCS > 0])
    x, y, z = np.linalg.solve(matrix, np.array(example.origin) - offset).tolist()
    return replace(
        example,
        image=torch.from_numpy(image),
        targets=torch.from_numpy(targets).float()[None],
        looked=torch.from_numpy(marks & _UNSEEN == 0)[None, None],
        changed=marks & _CHANGED > 0,
        box=box,
        origin=(x, y, z),
    )


def _place(tissue: NDArray[np.float32], matrix: NDArray[np.float64]) -> tuple[NDArray[np.int64], tuple[int, int, int]]:
    """Return the first voxel of the view's box, along the view's axes from voxel 0 of the example, and its sides.

    Around which point a hemisphere is turned makes no difference, as its box is found again. Of all
    voxels along x only the first and the last can reach furthest in any direction.
    """
    content = tissue > 0
    y, z = np.nonzero(content.any(axis=0))
    lines = content[:, y, z]
    first, last = lines.argmax(axis=0), len(lines) - 1 - lines[::-1].argmax(axis=0)
    ends = np.concatenate([np.stack([x, y, z]) for x in (first, last)], axis=1)
    turned = np.linalg.solve(matrix, ends)
    # With a tolerance, so that what does not move needs no more room than before.
    low, high = np.floor(turned.min(axis=1) + 1e-6), np.ceil(turned.max(axis=1) - 1e-6)
    begin = np.maximum(low, high + 1 - np.array(tissue.shape)).astype(np.int64)
    sides = (high + 1 - begin).astype(np.int64).tolist()
    return begin, (sides[0], sides[1], sides[2])


def _position(
    channel: NDArray[np.float32],
    axis: int,
    before: tuple[int, int, int],
    box: tuple[int, int, int],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return a channel of position in the view: it is linear along one axis of the example, and so it stays."""
    line = np.moveaxis(channel, axis, 0)[: before[axis], 0, 0].astype(np.float64)
    slope = (line[-1] - line[0]) / max(1, len(line) - 1)
    lines = np.ix_(*(np.arange(n) * m for n, m in zip(box, matrix[axis], strict=True)))
    return np.asarray(line[0] + slope * (offset[axis] + sum(lines)))


def _marks(example: Example) -> NDArray[np.uint8]:
    skeleton, pcs = example.targets[0].numpy() > 0
    masks = {_SKELETON: skeleton, _PCS: pcs, _CHANGED: example.changed, _UNSEEN: ~example.looked[0, 0].numpy()}
    marks = np.zeros(skeleton.shape, dtype=np.uint8)
    for bit, mask in masks.items():
        marks |= mask * np.uint8(bit)
    return marks


def _moved(
    marks: NDArray[np.uint8], box: tuple[int, int, int], matrix: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Resample bits: those of the nearest voxel, and of any labelled or changed one that is nearest to this."""
    moved = np.asarray(ndimage.affine_transform(marks, matrix, offset, output_shape=box, order=0))
    for bit in (_SKELETON, _PCS, _CHANGED):
        points = np.argwhere(marks & bit)
        index = np.floor(np.linalg.solve(matrix, (points - offset).T) + 0.5).astype(np.intp)
        inside = ((index >= 0) & (index < np.array(box)[:, None])).all(axis=0)
        moved[tuple(index[:, inside])] |= np.uint8(bit)
    return moved
