"""Average the hemispheres of people into the atlas that ships with the package.

    python scripts/atlas/build.py DATA src/napari_pcs/anatomy/shipped/cerebrum.nii.gz

DATA holds `hemispheres/sub-XX_hemi-{L,R}_gw.nii.gz` in a space that `affine/sub-XX.npz` relates to MNI152
(rigid_mni2sub, with which the hemispheres were aligned, and affine_mni2sub). Source of the shipped file:
OpenNeuro ds002748 v1.0.5 (CC0), 55 people; Bezmaternykh et al. 2021, doi 10.1155/2021/8846097.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.importers import read_case
from napari_pcs.anatomy.tissue import GREY, WHITE

AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SHAPE = (91, 109, 91)


def shares(path: Path, mni_to_world: np.ndarray) -> np.ndarray:
    """Grey and white matter of one hemisphere, 0 to 1, on the atlas's grid: (x, y, z, 2)."""
    case, _ = read_case(path)
    to_index = np.linalg.inv(case.tissue.affine) @ mni_to_world @ AFFINE
    tissues = ((case.tissue.data == value).astype(np.float32) for value in (GREY, WHITE))
    # The map has 1 mm voxels and the atlas 2 mm: averaged first, lest sulci alias.
    smooth = (ndimage.gaussian_filter(t, 0.8) for t in tissues)
    return np.stack([ndimage.affine_transform(t, to_index, output_shape=SHAPE, order=1) for t in smooth], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    sides = []
    for side in "LR":
        paths = sorted((args.data / "hemispheres").glob(f"*_hemi-{side}_gw.nii.gz"))
        total = np.zeros((*SHAPE, 2), dtype=np.float64)
        for path in paths:
            with np.load(args.data / "affine" / f"{path.name.split('_')[0]}.npz") as f:
                total += shares(path, np.linalg.inv(f["rigid_mni2sub"]) @ f["affine_mni2sub"])
        sides.append(total / len(paths))
        print(f"{side}: {len(paths)} hemispheres", flush=True)
    percent = np.round(100 * np.concatenate(sides, axis=-1)).astype(np.uint8)
    image = nib.Nifti1Image(percent, AFFINE)
    image.set_sform(AFFINE, code="mni")
    image.header["descrip"] = b"% left grey, left white, right grey, right white; ds002748"
    image.to_filename(args.target)


if __name__ == "__main__":
    main()
