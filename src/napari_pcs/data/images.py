"""Two-dimensional images in a folder, for example slices of brains."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.data.patch import Patch
from napari_pcs.data.walk import walk
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["IMAGE_SUFFIXES", "Images", "open_images"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
_LOOKED_AT = 16
"""Images that decide whether a folder is one of colour images."""
_SUBJECT = re.compile(r"(?:^|[_/])sub-([A-Za-z0-9]+)")
_PLAIN_MODES = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "F", "RGB"})
_DAMAGE = (EOFError, OSError, SyntaxError, ValueError, struct.error, zlib.error)
"""What the decoders raise for damaged bytes."""
_LARGEST = {"I": 65535.0}
"""Pillow's 32-bit mode is what it reads 16-bit grey into."""


def open_images(path: Path, channels: int | None = None) -> Images:
    """List the images of a folder and of all folders below it.

    Parameters
    ----------
    path
        Folder, or one image: JPEG, PNG or TIFF, 8 or 16 bits or fractions from 0 to 1.
    channels
        1 for grey, 3 for red, green and blue; if None, 3 where an image among the first few shows colour.

    Raises
    ------
    InputError
        If there is no image, or other channels are asked for.
    """
    if channels not in {None, 1, 3}:
        raise InputError(found=f"{channels} channels", expected="1 (grey) or 3 (red, green, blue)")
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        root, files = path.parent, [path.name]
    else:
        root = path
        files = sorted(
            (folder / name).relative_to(root).as_posix()
            for folder, _, names in walk(root)
            for name in names
            if Path(name).suffix.lower() in IMAGE_SUFFIXES
        )
    if not files:
        found = "a folder without images" if path.is_dir() else "no image"
        raise InputError(found=found, expected="files named " + ", ".join(sorted(IMAGE_SUFFIXES)), path=path)
    return Images(root, files, channels or _channels(root, files))


class Images:
    """Images on disk; see `PatchSource`.

    Parameters
    ----------
    root
        Their folder.
    files
        Their paths below it, with slashes.
    channels
        1 or 3.
    """

    spatial_dims = 2

    def __init__(self, root: Path, files: Sequence[str], channels: int) -> None:
        self._root, self._files, self.channels = root, tuple(files), channels

    @property
    def names(self) -> Sequence[str]:
        """Path of each below the folder."""
        return self._files

    @cached_property
    def people(self) -> Sequence[str]:
        """Subject (`sub-01`) that the path names; the path itself where it names none."""
        return tuple(match[1] if (match := _SUBJECT.search(name)) else name for name in self._files)

    @cached_property
    def labels(self) -> Sequence[str]:
        """Name of the folder in which each lies: what a probe may be asked to tell."""
        root = self._root.resolve()
        return tuple((root / name).parent.name for name in self._files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of paths and sizes in bytes."""
        described = [f"{name} {_size(self._root / name)}" for name in self._files]
        return hashlib.sha256("\n".join(described).encode()).hexdigest()

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: whose the images are, as far as their names do not say."""
        n = sum(_SUBJECT.search(name) is None for name in self._files)
        if len(self._files) == 1:
            return ("1 image: nothing is held out.",)
        if n == 0:
            alone = len(set(self.people)) == 1
            return (f"{len(self._files)} images of 1 person: nothing is held out.",) if alone else ()
        unknown = (
            f"{n} of {len(self._files)} images do not say whose they are (sub-01 in the name): each counts as a person"
            " of its own, so images of one person may be on both sides of a split."
        )
        return (unknown,)

    def draw(self, index: int, size: tuple[int, ...], rng: np.random.Generator) -> Patch:  # noqa: ARG002
        """Return the whole image, whatever `size`: views are cut from it.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        name = self._files[index]
        pixels = _read(self._root / name)
        if self.channels == 1:
            image = (_luminance(pixels) if pixels.ndim == 3 else pixels)[None]
        else:
            image = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else np.repeat(pixels[None], 3, axis=0)
        return Patch(np.ascontiguousarray(image, np.float32), None, name)


def _channels(root: Path, files: Sequence[str]) -> int:
    """Return 3 if one of a few images shows colour, else 1."""
    for i in np.unique(np.linspace(0, len(files) - 1, min(len(files), _LOOKED_AT)).round().astype(int)):
        try:
            pixels = _read(root / files[int(i)])
        except InputError:
            continue  # drawing it will say so
        if pixels.ndim == 3 and (pixels != pixels[..., :1]).any():
            return 3
    return 1


def _read(path: Path) -> NDArray[np.float32]:
    """Return (height, width) or (height, width, 3) float32 in [0, 1]; transparency is dropped."""
    from PIL import Image

    try:
        if path.suffix.lower() in {".tif", ".tiff"}:
            return _scaled(_tiff(path))
        with Image.open(path) as image:
            mode = image.mode
            pixels = np.asarray(image if mode in _PLAIN_MODES else image.convert("L" if mode == "LA" else "RGB"))
            return _scaled(pixels, _LARGEST.get(mode))
    except InputError as error:
        raise error.at(path) from None
    except FileNotFoundError:
        raise InputError(found="no such file", expected="an image", path=path) from None
    except (
        Image.DecompressionBombError,
        EOFError,
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        zlib.error,
    ) as error:
        raise InputError(
            found=f"an unreadable or truncated file ({error})",
            expected="a JPEG, PNG or TIFF image",
            advice="Copy it again.",
            path=path,
        ) from error


def _tiff(path: Path) -> NDArray[Any]:
    from skimage.io import imread

    pixels = np.asarray(imread(path))
    if pixels.ndim == 3 and pixels.shape[-1] == 2:
        return pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[-1] in {3, 4}:
        return pixels[..., :3]
    if pixels.ndim != 2:
        raise InputError(
            found=f"an image of shape {pixels.shape}",
            expected="one page, grey or with three colours",
            advice="Save each page of a stack as an image of its own.",
        )
    return pixels


def _scaled(pixels: NDArray[Any], largest: float | None = None) -> NDArray[np.float32]:
    """Bring the range of the type to [0, 1]."""
    if pixels.size == 0:
        raise InputError(found=f"no pixels (shape {pixels.shape})", expected="an image")
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    if largest is None and np.issubdtype(pixels.dtype, np.unsignedinteger):
        largest = float(np.iinfo(pixels.dtype).max)
    scaled = pixels.astype(np.float32) / np.float32(largest or 1)
    low, high = float(scaled.min()), float(scaled.max())
    if not (low >= 0 and high <= 1):
        raise InputError(
            found=f"values from {low * (largest or 1):.4g} to {high * (largest or 1):.4g}",
            expected="8 or 16 bits without sign, or fractions from 0 to 1",
            advice="Export the image again.",
        )
    return scaled


def _luminance(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what an image shows without colour (ITU-R BT.709); equal channels are taken as they are."""
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    return np.asarray(pixels @ np.array([0.2125, 0.7154, 0.0721], np.float32))


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:
        return "missing"
