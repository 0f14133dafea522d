"""Random views of a patch of a tissue map; the left side stays left in every one of them.

The classic augmentations of photographs do not suit a map of fluid, grey and white matter: it has
no colour, its values mean something, and a flip along x would make the other hemisphere of it.
What varies between real maps does: how the head lies, how large it is, where a segmentation put the
two surfaces of the ribbon, how blurred, noisy and uneven it is, and what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Augmentation3D", "augment", "draw_matrix", "look"]

GREY = 0.5
_KNOTS = 4
"""Knots per axis of a smooth random field: over 64 mm it changes within some 20 mm."""
_SLOPE = 2.0
"""Of the ramps that part fluid, grey and white again; steep enough that fluid stays 0 at the largest shift (1/8)."""
_SPREAD_SIGMA = 0.6
"""Voxels; spreads a border so that a threshold can move it, and leaves fluid one voxel wide below the threshold."""


class Augmentation3D(BaseModel):
    """How far two views of one patch may differ; each strength is drawn between nothing and the value here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation_deg: float = Field(
        15, ge=0, le=15, title="Rotation", description="Largest angle in degrees, about an axis in any direction."
    )
    scaling: float = Field(
        0.1, ge=0, le=0.2, title="Scaling", description="Largest change of size as a share, along each axis by itself."
    )
    ribbon: float = Field(
        0.12,
        ge=0,
        le=0.125,
        title="Ribbon",
        description="Largest shift of the tissue value at which the borders of the ribbon lie; 0.12 moves each by "
        "up to 0.4 mm.",
    )
    blur_mm: float = Field(
        0.8, ge=0, le=3, title="Blur", description="Largest standard deviation of the partial-volume blur, in mm."
    )
    grey: float = Field(
        0.1, ge=0, le=0.2, title="Grey level", description="Largest shift of grey (0.5) between fluid and white."
    )
    contrast: float = Field(
        0.2, ge=0, le=0.5, title="Contrast", description="Largest loss of contrast, as a share, around a random value."
    )
    gain: float = Field(
        0.15, ge=0, le=0.5, title="Gain", description="Largest share by which a smooth field brightens or darkens."
    )
    noise: float = Field(
        0.05, ge=0, le=0.5, title="Noise", description="Largest standard deviation, in units of white minus fluid."
    )
    blocks: int = Field(3, ge=0, le=20, title="Blocks", description="Largest number of blocks that are cut out.")
    block_share: float = Field(
        0.25, gt=0, le=0.5, title="Block size", description="Largest side of a block as a share of the view's."
    )


def augment(
    image: NDArray[np.float32], size: tuple[int, ...], rng: np.random.Generator, settings: Augmentation3D
) -> NDArray[np.float32]:
    """Return a random view: another place and posture within the patch, and another look.

    Parameters
    ----------
    image
        (channel, x, y, z) in [0, 1], each side at least the view's; what lies beyond it reads as fluid.
    size
        Voxels (x, y, z) of the view.
    rng
        Decides everything.
    settings
        How far views differ.

    Returns
    -------
    NDArray
        (channel, *size) float32 in [0, 1], at the scale of the patch.

    Raises
    ------
    InputError
        If the patch is smaller than the view.
    """
    if image.ndim != 4 or any(a < b for a, b in zip(image.shape[1:], size, strict=True)):
        raise InputError(
            found=f"a patch of shape {image.shape} for a view of {size} voxels",
            expected="(channel, x, y, z) with no side shorter than the view's",
            advice="Draw a patch as large as `region_for` says.",
        )
    return look(_place(image, size, rng, settings), rng, settings)


def draw_matrix(rng: np.random.Generator, settings: Augmentation3D) -> NDArray[np.float64]:
    """Draw a 3 x 3 matrix from the view's axes to the patch's: a rotation after a scaling of each axis.

    A direction turns by no more than `rotation_deg` (Rodrigues' formula; an axis is scaled along
    itself first), so x stays x and nothing is ever mirrored.
    """
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    angle = np.deg2rad(rng.uniform(-settings.rotation_deg, settings.rotation_deg))
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return np.asarray(rotation * rng.uniform(1 - settings.scaling, 1 + settings.scaling, 3))


def _place(
    image: NDArray[np.float32], size: tuple[int, ...], rng: np.random.Generator, settings: Augmentation3D
) -> NDArray[np.float32]:
    """Cut a view anywhere in the patch, turned and scaled, in one linear resampling."""
    room = (np.array(image.shape[1:]) - size) / 2
    centre = (np.array(image.shape[1:]) - 1) / 2 + rng.uniform(-room, room)
    matrix = draw_matrix(rng, settings)
    offset = centre - matrix @ ((np.array(size) - 1) / 2)
    view = np.empty((len(image), *size), dtype=np.float32)
    for channel, out in zip(image, view, strict=True):
        ndimage.affine_transform(channel, matrix, offset, output_shape=size, output=out, order=1)
    return view


def look(view: NDArray[np.float32], rng: np.random.Generator, settings: Augmentation3D) -> NDArray[np.float32]:
    """Change how a view looks, in place, without moving anything: ribbon, blur, levels, gain, noise, blocks."""
    sides = view.shape[1:]
    if settings.ribbon:
        _move_borders(view, rng, settings.ribbon)
    sigma = rng.uniform(0, settings.blur_mm)
    for channel in view:
        _blur(channel, sigma)
    _change_levels(view, rng, settings)
    if settings.gain:
        view *= 1 + np.float32(rng.uniform(0, settings.gain)) * _smooth_field(sides, rng)
    if settings.noise:
        noise = rng.standard_normal(view.shape, dtype=np.float32)
        noise *= np.float32(rng.uniform(0, settings.noise))
        view += noise
    np.clip(view, 0, 1, out=view)
    for _ in range(rng.integers(0, settings.blocks + 1)):
        lengths = [rng.integers(1, max(1, round(n * settings.block_share)) + 1) for n in sides]
        starts = [rng.integers(0, n - m + 1) for n, m in zip(sides, lengths, strict=True)]
        view[(slice(None), *(slice(a, a + m) for a, m in zip(starts, lengths, strict=True)))] = 0
    return view


def _move_borders(view: NDArray[np.float32], rng: np.random.Generator, largest: float) -> None:
    """Thin or thicken the ribbon from both of its sides, here more and there less.

    The map is the sum of two ramps, fluid to grey and grey to white; each crosses its middle where
    the blurred map crosses a threshold of its own.
    """
    for channel in view:
        _blur(channel, _SPREAD_SIGMA)
        # Two thirds of the shift thicken the ribbon everywhere, as one segmentation does against
        # another; a third is local and each border's own.
        ramps, thicker = [], np.float32(rng.uniform(-2, 2))
        for border, side in ((GREY / 2, thicker), ((1 + GREY) / 2, -thicker)):
            ramp = _smooth_field(channel.shape, rng)
            ramp += side
            ramp *= np.float32(largest / 3)
            ramp += channel
            ramp -= np.float32(border)
            ramps.append(ramp)
        channel[...] = 0.0
        for ramp in ramps:
            ramp *= np.float32(_SLOPE)
            ramp += np.float32(GREY / 2)
            np.clip(ramp, 0, GREY, out=ramp)
            channel += ramp


def _change_levels(view: NDArray[np.float32], rng: np.random.Generator, settings: Augmentation3D) -> None:
    """Move grey towards fluid or white, then shrink the contrast around a random value."""
    shift = np.float32(rng.uniform(-settings.grey, settings.grey))
    # 4 v (1 - v) is 1 at grey and 0 at fluid and white; with a shift below a quarter the order of values stays.
    view += 4 * shift * view * (1 - view)
    loss, around = np.float32(rng.uniform(0, settings.contrast)), np.float32(rng.uniform(0, 1))
    view *= 1 - loss
    view += loss * around


def _blur(channel: NDArray[np.float32], sigma: float) -> None:
    # A tenth of a voxel is less than linear resampling blurs.
    if sigma > 0.1:
        ndimage.gaussian_filter(channel, sigma, output=channel, mode="nearest", truncate=3.0)


def _smooth_field(sides: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Random values in [-1, 1] that change smoothly: some knots an axis, blended between neighbours."""
    field = rng.uniform(-1, 1, (_KNOTS,) * len(sides)).astype(np.float32)
    for side in sides:
        # Each turn blends the first axis and puts it last, so all come round to their places.
        field = np.tensordot(field, _blend(side), axes=(0, 1))
    return field


def _blend(side: int) -> NDArray[np.float32]:
    """(side, knots): share of each knot in each voxel; shares are positive and sum to 1."""
    place = np.linspace(0, _KNOTS - 1, side)
    away = np.clip(1 - np.abs(place[:, None] - np.arange(_KNOTS)), 0, 1)
    return np.asarray(away**2 * (3 - 2 * away), dtype=np.float32)
