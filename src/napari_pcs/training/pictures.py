"""Pictures of what a network reconstructs: a sheet of middle slices, and the volumes themselves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from napari_pcs.errors import InputError
from napari_pcs.files import write_together

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["contact_sheet", "write_picture"]

_SLICE_PIXELS = 128
"""Slices are enlarged by a whole number of times until they are about this wide."""
_GAP, _COLUMN_GAP, _CAPTION = 2, 12, 34
_FONT_PIXELS = 13
_PAPER, _INK, _FAINT, _ALARM = (30, 30, 30), (235, 235, 235), (150, 150, 150), (255, 0, 80)
_PLANES = ("sagittal", "coronal", "axial")
_TARGET = "target"


def write_picture(volumes: NDArray[np.floating], images: Sequence[str], path: Path) -> tuple[Path, Path]:
    """Write volumes as a sheet of their middle slices, and as they are.

    Parameters
    ----------
    volumes
        (sample, image, x, y, z) in RAS, or (sample, image, height, width).
    images
        What each image is, for example given, target and found.
    path
        Of the sheet, ending in `.png`; the volumes go beside it as `.npy`, in 16 bits.

    Returns
    -------
    tuple
        Paths of the sheet and of the volumes; either both are written or neither.

    Raises
    ------
    InputError
        If the volumes have other axes, or another number of images than there are names.
    SessionError
        If the disk is full or read-only.
    """
    sheet, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(contact_sheet(volumes, images)).save(sheet, format="png")
    limit = float(np.finfo(np.float16).max)
    np.save(array, np.clip(volumes, -limit, limit).astype(np.float16))
    beside = path.with_suffix(".npy")
    write_together({path: sheet.getvalue(), beside: array.getvalue()})
    return path, beside


def contact_sheet(volumes: NDArray[np.floating], images: Sequence[str]) -> NDArray[np.uint8]:
    """Return the middle slices (height, width, 3): a row for each sample, a column for each image.

    All share one scale of grey: that of the target, where there is one. What is not finite is red.
    """
    if volumes.ndim not in (4, 5) or volumes.shape[1] != len(images):
        raise InputError(
            found=f"an array of shape {volumes.shape}",
            expected=f"(sample, {len(images)}, x, y, z) or (sample, {len(images)}, height, width)",
        )
    low, high = _range(volumes[:, list(images).index(_TARGET)] if _TARGET in images else volumes)
    rows = [
        _beside([_beside([_tile(s, low, high) for s in _slices(v)], _GAP) for v in sample], _COLUMN_GAP)
        for sample in volumes
    ]
    columns = [_beside([_tile(s, low, high) for s in _slices(v)], _GAP).shape[1] for v in volumes[0]]
    body = np.concatenate([np.pad(row, ((_GAP, _GAP), (0, 0), (0, 0)), constant_values=_PAPER[0]) for row in rows])
    planes = _PLANES if volumes.ndim == 5 else ()
    return np.concatenate([_captions(images, columns, planes), body])


def _slices(volume: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Return pictures (rows, columns) as one looks at them: anterior to the right or up, superior up."""
    if volume.ndim == 2:
        return [volume]
    x, y, z = (n // 2 for n in volume.shape)
    return [plane.T[::-1] for plane in (volume[x], volume[:, y], volume[:, :, z])]


def _range(values: NDArray[np.floating]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return low, high if high > low else low + 1.0


def _tile(plane: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    finite = np.isfinite(plane)
    grey = np.clip((np.where(finite, plane, low).astype(np.float64) - low) / (high - low), 0, 1)
    pixels = np.repeat((255 * grey).round().astype(np.uint8)[..., None], 3, axis=2)
    pixels[~finite] = _ALARM
    times = max(1, round(_SLICE_PIXELS / max(plane.shape)))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def _beside(tiles: list[NDArray[np.uint8]], gap: int) -> NDArray[np.uint8]:
    height = max(tile.shape[0] for tile in tiles)
    padded = []
    for i, tile in enumerate(tiles):
        above = (height - tile.shape[0]) // 2
        sides = ((above, height - tile.shape[0] - above), (gap if i else 0, 0), (0, 0))
        padded.append(np.pad(tile, sides, constant_values=_PAPER[0]))
    return np.concatenate(padded, axis=1)


def _captions(images: Sequence[str], columns: list[int], planes: Sequence[str]) -> NDArray[np.uint8]:
    strip = Image.new("RGB", (sum(columns) + _COLUMN_GAP * (len(columns) - 1), _CAPTION), _PAPER)
    draw, font, left = ImageDraw.Draw(strip), ImageFont.load_default(_FONT_PIXELS), 0
    for name, width in zip(images, columns, strict=True):
        draw.text((left + 2, 1), name, _INK, font)
        for i, plane in enumerate(planes):
            draw.text((left + 2 + i * (width + _GAP) // len(planes), 17), plane, _FAINT, font)
        left += width + _COLUMN_GAP
    return np.asarray(strip)
