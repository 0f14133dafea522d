"""Frequency maps: how many people had each sulcus at each point of MNI152."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FrequencyMap", "Mixture", "Priors", "read_priors", "shipped_priors"]

_SIDES = {Hemisphere.LEFT: "left", Hemisphere.RIGHT: "right"}
_NAMES = {
    "pcs": ("pcs", "paracingular"),
    "cingulate": ("cingulate", "F.C.M.ant"),
    "posterior cingulate": ("cingulate-posterior", "F.C.M.post"),
}
"""What each map may be called: the plain name, and deep_folding's."""


class FrequencyMap(NamedTuple):
    """Share of people, 0 to 1, on a grid in MNI152."""

    share: NDArray[np.float32]
    to_index: NDArray[np.float64]

    def at(self, mni_mm: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the share at points (n, 3) in MNI152 mm; 0 outside the map."""
        index = mni_mm @ self.to_index[:3, :3].T + self.to_index[:3, 3]
        return np.asarray(ndimage.map_coordinates(self.share, index.T, order=1, mode="constant"))


class Mixture(NamedTuple):
    """Share of people as a sum of Gaussians.

    Attributes
    ----------
    components
        (k, 10): height, centre (x, y, z) in MNI152 mm, and the lower triangle, row by row, of the
        Cholesky root of the inverse covariance.
    """

    components: NDArray[np.float64]

    def at(self, mni_mm: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the share at points (n, 3) in MNI152 mm."""
        total = np.zeros(len(mni_mm))
        for height, x, y, z, *triangle in self.components:
            root = np.zeros((3, 3))
            root[np.tril_indices(3)] = triangle
            total += height * np.exp(-0.5 * (((mni_mm - (x, y, z)) @ root) ** 2).sum(axis=1))
        return np.clip(total, 0, 1).astype(np.float32)


class Priors(NamedTuple):
    """Maps of one hemisphere; `cingulate_posterior` may be missing."""

    pcs: FrequencyMap | Mixture
    cingulate: FrequencyMap | Mixture
    cingulate_posterior: FrequencyMap | Mixture | None
    source: str


@cache
def shipped_priors(hemisphere: Hemisphere) -> Priors:
    """Return the maps that ship with the package: smooth fits of deep_folding's (`scripts/atlas/fit_priors.py`)."""
    table = json.loads((files("napari_pcs.anatomy") / "shipped" / "priors.json").read_text(encoding="utf-8"))
    side = _SIDES[hemisphere]
    roles = ("pcs", "cingulate", "cingulate-posterior")
    pcs, cingulate, posterior = (Mixture(np.array(table[f"{role}_{side}"])) for role in roles)
    return Priors(pcs, cingulate, posterior, table["source"])


def read_priors(folder: Path, hemisphere: Hemisphere) -> Priors:
    """Read the frequency maps of one hemisphere from a folder.

    Parameters
    ----------
    folder
        With `pcs_left.nii.gz` and `cingulate_left.nii.gz` (perhaps `cingulate-posterior_left`), and the
        same for the right; or with deep_folding's `paracingular._left.nii.gz`, `F.C.M.ant._left.nii.gz`
        and `F.C.M.post._left.nii.gz`. Counts of people or shares; each map is divided by the highest
        value that it has on either side, so that a sulcus rarer on one side stays rarer there.
    hemisphere
        Side to read.

    Raises
    ------
    InputError
        If a map is missing, negative or not in MNI152.
    """
    found = {role: _read(folder, names, hemisphere) for role, names in _NAMES.items()}
    missing = [role for role in ("pcs", "cingulate") if found[role] is None]
    if missing:
        raise InputError(
            found=f"no map of {' or '.join(missing)} for the {_SIDES[hemisphere]} hemisphere",
            expected=", ".join(f"{names[0]}_{_SIDES[hemisphere]}.nii.gz" for names in _NAMES.values()),
            path=folder,
        )
    pcs, cingulate = found["pcs"], found["cingulate"]
    assert pcs is not None and cingulate is not None  # noqa: S101, PT018  checked above
    return Priors(pcs, cingulate, found["posterior cingulate"], str(folder))


def _read(folder: Path, names: tuple[str, ...], hemisphere: Hemisphere) -> FrequencyMap | None:
    paths = {side: _path(folder, names, side) for side in Hemisphere}
    path = paths[hemisphere]
    if path is None:
        return None
    volume = Volume.read(path)
    if volume.data.min() < 0:
        raise InputError(found="negative frequencies", expected="counts or shares of people", path=path)
    x = np.argwhere(volume.data > 0) @ volume.affine[0, :3] + volume.affine[0, 3]
    if (np.median(x) < 0) != (hemisphere is Hemisphere.LEFT):
        raise InputError(
            found="a map on the other side of the brain",
            expected=f"the {_SIDES[hemisphere]} hemisphere, at {'negative' if hemisphere == 'L' else 'positive'} x",
            path=path,
        )
    highest = max(float(Volume.read(other).data.max()) for other in paths.values() if other is not None)
    return FrequencyMap((volume.data / highest).astype(np.float32), np.asarray(np.linalg.inv(volume.affine)))


def _path(folder: Path, names: tuple[str, ...], side: Hemisphere) -> Path | None:
    candidates = [
        folder / f"{name}{mark}{_SIDES[side]}{ending}"
        for name in names
        for mark in ("_", "._")
        for ending in (".nii.gz", ".nii")
    ]
    return next((path for path in candidates if path.is_file()), None)
