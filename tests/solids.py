"""Bars and bent strips of known length as voxels: those whose centre lies inside the solid."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

ARC_START, ARC_DEGREES, ARC_RADIUS_MM = 20.0, 100.0, 38.0
ARC_MM = ARC_RADIUS_MM * np.radians(ARC_DEGREES)
"""Length of the arc round the genu: 66.3 mm."""


class Solid(NamedTuple):
    """Voxels (n, 3) of a solid, their centres in mm and their depth in mm below its outer edge."""

    index: np.ndarray
    mm: np.ndarray
    depth: np.ndarray


def bar(length_mm, width_mm, depth_mm, **options):
    """Straight bar: long along its own y, `width_mm` along z, and `depth_mm` deep along x."""
    half = np.array([depth_mm, length_mm, width_mm]) / 2

    def inside(x, y, z):
        return (abs(x) <= half[0]) & (abs(y) <= half[1]) & (abs(z) <= half[2])

    return _digitise(inside, lambda x, _y, _z: x, -half, half, **options)


def arc(width_mm, depth_mm, **options):
    """Bent strip: an arc of 38 mm and 100 degrees in its own y-z plane, `depth_mm` deep along x."""

    def inside(x, y, z):
        far = abs(np.hypot(y, z) - ARC_RADIUS_MM) <= width_mm / 2
        return far & _within(y, z) & (abs(x) <= depth_mm / 2)

    return _digitise(inside, lambda x, _y, _z: x, *_ring_box(ARC_RADIUS_MM + width_mm / 2, depth_mm), **options)


def sector(inner_mm, outer_mm, thickness_mm, **options):
    """Piece of a ring of 100 degrees in its own y-z plane, deep along the radius, from outside to inside."""

    def inside(x, y, z):
        radius = np.hypot(y, z)
        return (radius >= inner_mm) & (radius <= outer_mm) & _within(y, z) & (abs(x) <= thickness_mm / 2)

    return _digitise(inside, lambda _x, y, z: outer_mm - np.hypot(y, z), *_ring_box(outer_mm, thickness_mm), **options)


def turned(seed):
    """Random rotation of the seed."""
    return Rotation.random(random_state=seed)


def tilted(degrees):
    """Rotation in the sagittal plane."""
    return Rotation.from_euler("x", degrees, degrees=True)


def _within(y, z):
    degrees = np.degrees(np.arctan2(z, y))
    return (degrees >= ARC_START) & (degrees <= ARC_START + ARC_DEGREES)


def _ring_box(radius, thickness):
    degrees = np.radians(np.linspace(ARC_START, ARC_START + ARC_DEGREES, 101))
    y, z = radius * np.cos(degrees), radius * np.sin(degrees)
    return np.array([-thickness / 2, y.min(), 0.0]), np.array([thickness / 2, y.max(), z.max()])


def _digitise(inside, depth, low, high, *, turn=None, spacing=(1.0, 1.0, 1.0), shift=(0.3, -0.2, 0.1)):
    """Voxels of a solid given in its own frame within a box; `shift` moves it by a part of a voxel."""
    turn = Rotation.identity() if turn is None else turn
    middle, half = turn.apply((low + high) / 2), abs(turn.as_matrix()) @ ((high - low) / 2)
    counts = np.ceil(half / spacing).astype(int) + 1
    lines = [np.arange(2 * n + 1) for n in counts]
    index = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)
    mm = (index - counts) * np.asarray(spacing)
    own = turn.inv().apply(mm + middle + np.multiply(shift, spacing)).T
    kept = inside(*own)
    return Solid(index[kept], mm[kept], depth(*own)[kept])
