"""Open whatever a path holds: hemispheres or images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_pcs.data.hemispheres import Hemispheres, open_hemispheres
from napari_pcs.data.images import IMAGE_SUFFIXES, Images, open_images
from napari_pcs.data.walk import walk
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["open_data"]

_VOLUMES = (".nii", ".nii.gz", ".mgz")


def open_data(path: Path, spatial_dims: Literal[2, 3] | None = None, cache: Path | None = None) -> Hemispheres | Images:
    """Open hemispheres (3-D) or images (2-D), by what a folder holds.

    Parameters
    ----------
    path
        Folder or file.
    spatial_dims
        Which of the two, where a folder holds both.
    cache
        See `open_hemispheres`.

    Raises
    ------
    InputError
        If there is neither, or both and nobody says which.
    """
    if not path.exists():
        raise InputError(found="no such file or folder", expected="hemispheres or images", path=path)
    dims = spatial_dims or _dims(path)
    return open_images(path) if dims == 2 else open_hemispheres(path, cache)


def _dims(path: Path) -> Literal[2, 3]:
    if path.is_file():
        return 2 if 2 in _kinds([path.name]) else 3
    if (path / "session.json").is_file():
        return 3
    found: set[int] = set()
    for _, _, names in walk(path):
        found |= _kinds(names)
        if len(found) > 1:
            raise InputError(
                found="volumes and 2-D images",
                expected="one of the two",
                advice="Say which to use (3 dimensions or 2), or give a folder with one of them.",
                path=path,
            )
    return 2 if found == {2} else 3


def _kinds(names: Iterable[str]) -> set[int]:
    volumes = any(name.endswith(_VOLUMES) for name in names)
    images = any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)
    return {dims for dims, there in ((2, images), (3, volumes)) if there}
