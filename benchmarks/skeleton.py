"""Measure the sulcal skeleton: time, thickness, accuracy, topology, stability and resolution.

    python benchmarks/skeleton.py DATA [--people 6]

DATA holds `hemispheres/sub-XX_hemi-{L,R}_gw.nii.gz` (0, 100 grey, 200 white). Run it on one core
(`OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1`). The shift and the turn are those of the tissue map: each
tissue's indicator is resampled linearly and the largest taken, as if the same person were scanned
in another position and segmented without error.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from skimage.measure import euler_number

from napari_pcs.anatomy import skeleton as module
from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.skeleton import skeletonize
from napari_pcs.anatomy.thinning import is_simple
from napari_pcs.data.phantom import (
    GREY_MM,
    HALF_WIDTH_MM,
    _coordinates,
    _depth,
    _lateral_folds,
    _medial_folds,
    phantom,
)
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CUBE = np.ones((3, 3, 3), bool)
TOLERANCE_MM = 1.0
LARGE_MM2 = 100.0


class Scan(NamedTuple):
    """Tissue (0, 1 grey, 2 white) with an affine to world mm."""

    tissue: NDArray[np.uint8]
    affine: NDArray[np.float64]
    hemisphere: Hemisphere

    @property
    def spacing(self) -> tuple[float, float, float]:
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))


def read(path: Path) -> Scan:
    image = nib.as_closest_canonical(nib.load(path))
    side = Hemisphere.LEFT if "hemi-L" in path.name else Hemisphere.RIGHT
    return Scan((np.asarray(image.dataobj) // 100).astype(np.uint8), image.affine, side)


def skeleton_of(scan: Scan) -> NDArray[np.bool_]:
    frame = estimate_frame(scan.tissue > 0, scan.spacing, scan.hemisphere)
    return skeletonize(scan.tissue == 1, scan.tissue == 2, frame)


def rescan(scan: Scan, *, degrees: float = 0.0, shift_mm: float = 0.0, spacing: float = 1.0, margin: int = 12) -> Scan:
    """Scan the same tissue on a grid that is turned about (1, 1, 1), shifted and of another voxel size."""
    turn = Rotation.from_rotvec(np.radians(degrees) * np.ones(3) / np.sqrt(3)).as_matrix()
    centre = scan.affine[:3, :3] @ ((np.array(scan.tissue.shape) - 1) / 2) + scan.affine[:3, 3]
    size = [round((n * s + 2 * margin) / spacing) for n, s in zip(scan.tissue.shape, scan.spacing, strict=True)]
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(size) - 1) // 2) + shift_mm
    if not degrees:  # On whole voxels of the original grid, but for the shift asked for.
        affine[:3, 3] = np.round(affine[:3, 3] - shift_mm - scan.affine[:3, 3]) + scan.affine[:3, 3] + shift_mm
    pull = np.linalg.inv(scan.affine) @ affine
    shares = [
        ndimage.affine_transform((scan.tissue == t).astype(np.float32), pull, output_shape=tuple(size), order=1)
        for t in (1, 2)
    ]
    shares.insert(0, 1 - shares[0] - shares[1])
    return Scan(np.argmax(shares, axis=0).astype(np.uint8), affine, scan.hemisphere)


def points(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]


def agreement(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """NSD at the tolerance: mean of both sides' shares, so that a finer grid does not weigh more."""
    there, back = cKDTree(two).query(one)[0], cKDTree(one).query(two)[0]
    return float(((there <= TOLERANCE_MM).mean() + (back <= TOLERANCE_MM).mean()) / 2)


def border(tissue: NDArray[np.uint8]) -> NDArray[np.bool_]:
    white = tissue == 2
    return white & ~ndimage.binary_erosion(white)


def topology(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Components, tunnels and cavities of a 26-connected object."""
    padded = np.pad(mask, 1)
    parts = ndimage.label(padded, CUBE)[1]
    cavities = ndimage.label(~padded)[1] - 1
    return parts, parts + cavities - int(euler_number(padded, 3)), cavities


def filled_blocks(mask: NDArray[np.bool_]) -> int:
    pairs = mask[:-1] & mask[1:]
    squares = pairs[:, :-1] & pairs[:, 1:]
    return int((squares[:, :, :-1] & squares[:, :, 1:]).sum())


def removable(mask: NDArray[np.bool_]) -> float:
    """Share of simple voxels with more than 8 neighbours: what is thicker than a sheet or on a seam's edge."""
    volume = np.pad(mask, 1)
    crowded = volume & (ndimage.convolve(volume.astype(np.uint8), CUBE.astype(np.uint8), mode="constant") > 9)
    where = np.argwhere(crowded)
    return sum(is_simple(volume[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]) for x, y, z in where) / mask.sum()


def large_parts(mask: NDArray[np.bool_], spacing: float) -> int:
    counts = np.bincount(ndimage.label(mask, CUBE)[0].ravel())[1:]
    return int((counts * spacing**2 > LARGE_MM2).sum())


class Watch:
    """Keeps what `thin` was given and what it returned, and the time that it took."""

    def __init__(self) -> None:
        self.given = self.returned = None
        self._thin: Callable[..., NDArray[np.bool_]] = module.thin

    def __enter__(self) -> Watch:
        module.thin = self  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        module.thin = self._thin

    def __call__(self, objects: NDArray[np.bool_], *args: object, **options: object) -> NDArray[np.bool_]:
        self.given, self.returned = objects, self._thin(objects, *args, **options)
        return self.returned


def measure(scan: Scan) -> dict[str, float]:
    skeleton_of(scan)
    start = time.process_time()
    plain = skeleton_of(scan)
    row: dict[str, float] = {"seconds": time.process_time() - start, "voxels": plain.sum()}
    with Watch() as watch:
        skeleton_of(scan)
    row["removable %"] = 100 * removable(watch.returned)
    row["filled %"] = 100 * filled_blocks(plain) / plain.sum()
    given, returned = topology(watch.given), topology(watch.returned)
    row["homotopic"] = given == returned
    row["parts"], row["tunnels"], row["cavities"] = topology(plain)
    row["large parts"] = large_parts(plain, 1.0)
    here = points(plain, scan.affine)
    for name, options in VARIANTS.items():
        other = rescan(scan, **options)
        found = skeleton_of(other)
        row[name] = agreement(here, points(found, other.affine))
        row[f"{name} (white)"] = agreement(
            points(border(scan.tissue), scan.affine), points(border(other.tissue), other.affine)
        )
        if "spacing" in options:
            row["large parts 0.7"] = large_parts(found, options["spacing"])
            row["tunnels 0.7"] = topology(found)[1]
    return row


VARIANTS = {"shift": {"shift_mm": 0.5}, "turn": {"degrees": 5.0}, "0.7 mm": {"spacing": 0.7}}


def folds_of_the_phantom(spacing: float) -> None:
    """Print how well each analytic fold is found; all are 8 to 13 mm deep.

    A fold of the phantom ends in a square bottom, and there its medial surface parts towards the two
    corners. So the analytic sheet counts from 1.5 mm below the surface to where its sides are nearer
    than its ends.
    """
    case = phantom(Hemisphere.RIGHT, spacing_mm=spacing)
    scan = Scan(case.tissue.data, np.diag([spacing, spacing, spacing, 1.0]), Hemisphere.RIGHT)
    found = skeleton_of(scan)
    away = ndimage.distance_transform_edt(~found) * spacing
    coordinates = _coordinates(spacing)
    body = _depth(*coordinates)
    names = ["cingulate", "pcs", *(f"lateral {i}" for i in range(1, 7))]
    folds = [*_medial_folds(*coordinates, 60.0), *_lateral_folds(*coordinates, body, 0)]
    others = [np.where(f.extent, np.abs(f.distance), np.inf) for f in folds]
    half = HALF_WIDTH_MM + GREY_MM
    for i, (name, fold) in enumerate(zip(names, folds, strict=True)):
        deep = ndimage.distance_transform_edt(fold.extent | (body <= 0)) * spacing > half
        alone = np.min(others[:i] + others[i + 1 :], axis=0) > 2 * half
        zone = fold.extent & deep & alone & (body > 1.5)
        sheet = zone & (np.abs(fold.distance) <= spacing / 2)
        own = zone & found & (np.abs(fold.distance) < half)
        error = np.abs(fold.distance[own])
        print(
            f"  {spacing:.1f} mm {name:<10} within a voxel {100 * (away[sheet] <= spacing + 1e-6).mean():5.1f} % of the"
            f" sheet; skeleton off by {error.mean():.2f} mm, 95th percentile {np.percentile(error, 95):.2f} mm"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--people", type=int, default=6)
    arguments = parser.parse_args()
    print("Phantom")
    for spacing in (1.0, 0.7):
        folds_of_the_phantom(spacing)
    print("Hemispheres")
    paths = sorted((arguments.data / "hemispheres").glob("sub-*_gw.nii.gz"))[: 2 * arguments.people]
    rows = []
    for path in paths:
        rows.append(measure(read(path)))
        print(f"  {path.name[:13]} " + "  ".join(f"{k} {float(v):.4g}" for k, v in rows[-1].items()), flush=True)
    print("Mean, least and most")
    for key in rows[0]:
        values = np.array([float(row[key]) for row in rows])
        print(f"  {key:<16} {values.mean():9.3f} {values.min():9.3f} {values.max():9.3f}")


if __name__ == "__main__":
    main()
