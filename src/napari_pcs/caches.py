"""Where what was computed is kept, and how much of it: hemispheres, frozen features, predictions.

All of it lies in the user's cache folder, or in the folder that `NAPARI_PCS_CACHE` names, and may be
deleted at any time: it is computed again.
"""

from __future__ import annotations

import math
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from napari_pcs.data.bundles import Bundles
from napari_pcs.data.cache import HemisphereCache, cache_root, default_cache
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FEATURES_GB", "Usage", "cache_usage", "clear_caches", "feature_cache", "prediction_cache"]

FEATURES_GB = "NAPARI_PCS_CACHE_GB"
"""Environment variable: most that frozen features may take, in units of 10^9 bytes."""
_GB = 1_000_000_000
_FEATURES_BYTES = 8 * _GB
_PREDICTIONS_BYTES = 2 * _GB
_SHARE = 4
"""Of what is free on the disk, each of the two takes at most one part in this many."""


class Usage(NamedTuple):
    """What one kind of kept things takes.

    Attributes
    ----------
    name
        "hemispheres", "features" or "predictions".
    folder
        Where it lies.
    entries
        How many there are.
    size_bytes
        That they take.
    limit_bytes
        Most that they may take; None for hemispheres, which have no limit.
    """

    name: str
    folder: Path
    entries: int
    size_bytes: int
    limit_bytes: int | None


def feature_cache() -> Bundles:
    """Return the folder for what the frozen part of a network says of a case.

    It may take what `NAPARI_PCS_CACHE_GB` says; where that is not set, 8 GB or a quarter of what is
    free on the disk, whichever is less.

    Raises
    ------
    InputError
        If the variable is set to something that is no size.
    """
    folder = cache_root() / "features"
    chosen = os.environ.get(FEATURES_GB, "").strip()
    return Bundles(folder, _bytes_of(chosen) if chosen else min(_FEATURES_BYTES, _share_of_disk(folder)))


def prediction_cache() -> Bundles:
    """Return the folder for predictions: 2 GB (some hundreds) or a quarter of what is free, whichever is less."""
    folder = cache_root() / "predictions"
    return Bundles(folder, min(_PREDICTIONS_BYTES, _share_of_disk(folder)))


def cache_usage() -> tuple[Usage, ...]:
    """Return what hemispheres, features and predictions take now; nothing is changed.

    Raises
    ------
    InputError
        If `NAPARI_PCS_CACHE_GB` is set to something that is no size.
    """
    hemispheres = HemisphereCache(default_cache())
    kept = {"features": feature_cache(), "predictions": prediction_cache()}
    return (
        Usage("hemispheres", hemispheres.folder, *hemispheres.usage(), None),
        *(Usage(name, bundles.folder, *bundles.usage(), bundles.limit_bytes) for name, bundles in kept.items()),
    )


def clear_caches() -> int:
    """Remove all that is kept; return the bytes that were freed.

    Raises
    ------
    SessionError
        If a folder cannot be changed.
    InputError
        If `NAPARI_PCS_CACHE_GB` is set to something that is no size; nothing is removed.
    """
    return sum(kept.clear() for kept in (feature_cache(), prediction_cache(), HemisphereCache(default_cache())))


def _bytes_of(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise InputError(
            found=f"{FEATURES_GB}={text}",
            expected="a number of gigabytes, such as 8 or 0.5; 0 keeps no features",
            advice="Correct the environment variable, or remove it.",
        )
    return int(size * _GB)


def _share_of_disk(folder: Path) -> int:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        return shutil.disk_usage(there).free // _SHARE
    except OSError:
        return _FEATURES_BYTES  # a file system that does not say; one that is full will refuse
