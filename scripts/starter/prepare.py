"""Prepare hemispheres for the starter model: skeleton, weak PCS label, network grid.

    python scripts/starter/prepare.py DATA PREPARED

DATA holds `hemispheres/sub-XX_hemi-{L,R}_gw.nii.gz`, `affine/sub-XX.npz` (rigid_mni2sub, with which the
hemispheres were aligned, and affine_mni2sub) and `priors/` (frequency maps of deep_folding: paracingular,
F.C.M.ant, F.C.M.post).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.grid import NetworkGrid
from napari_pcs.anatomy.importers import read_case
from napari_pcs.anatomy.length import measure
from napari_pcs.anatomy.preset import DEFAULT_PRESET
from napari_pcs.anatomy.proposal import Frequencies, propose_pcs
from napari_pcs.labels import Hemisphere
from napari_pcs.pipeline import extract_skeleton
from napari_pcs.predict import frame_of

if TYPE_CHECKING:
    from napari_pcs.case import Case

POSTERIOR_WEIGHT = 0.6
"""The posterior cingulate map counts less: it borders the zone in which a PCS may lie."""


def frequency(data: Path, name: str, side: Hemisphere, mni_mm: np.ndarray) -> np.ndarray:
    """Sample one frequency map, as a share of its maximum, at MNI coordinates (n, 3)."""
    word = "left" if side is Hemisphere.LEFT else "right"
    image = nib.load(data / "priors" / f"{name}._{word}.nii.gz")
    volume = np.asarray(image.dataobj, dtype=np.float32)
    inverse = np.linalg.inv(image.affine)
    index = mni_mm @ inverse[:3, :3].T + inverse[:3, 3]
    return ndimage.map_coordinates(volume, index.T, order=1) / volume.max()


def weak_labels(case: Case, data: Path) -> np.ndarray:
    """Return a label map: skeleton 1, proposed PCS 2."""
    skeleton = extract_skeleton(case)
    with np.load(data / "affine" / f"sub-{case.key.subject}.npz") as f:
        to_mni = np.linalg.inv(f["affine_mni2sub"]) @ f["rigid_mni2sub"] @ case.tissue.affine
    mni_mm = np.argwhere(skeleton) @ to_mni[:3, :3].T + to_mni[:3, 3]
    side = case.key.hemisphere
    cingulate = np.maximum(
        frequency(data, "F.C.M.ant", side, mni_mm), POSTERIOR_WEIGHT * frequency(data, "F.C.M.post", side, mni_mm)
    )
    pcs = propose_pcs(skeleton, mni_mm, Frequencies(frequency(data, "paracingular", side, mni_mm), cingulate))
    return skeleton.astype(np.uint8) + pcs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("prepared", type=Path)
    args = parser.parse_args()
    args.prepared.mkdir(parents=True, exist_ok=True)
    for path in sorted((args.data / "hemispheres").glob("*_gw.nii.gz")):
        case, _ = read_case(path)
        labels = weak_labels(case, args.data)
        found = measure(labels == 2, case.tissue.spacing, DEFAULT_PRESET)
        grid = NetworkGrid(frame_of(case), case.tissue.shape)
        np.savez_compressed(
            args.prepared / f"{case.key.stem}.npz",
            tissue=np.round(grid.pull(case.tissue.data)).astype(np.uint8),
            labels=np.round(grid.pull(labels, order=0)).astype(np.uint8),
            position=grid.position().astype(np.float16),
            length=found.length_mm,
            cls=str(found.pcs_class),
        )
        print(f"{case.key.stem}: {found.length_mm:.1f} mm, {found.pcs_class}", flush=True)


if __name__ == "__main__":
    main()
