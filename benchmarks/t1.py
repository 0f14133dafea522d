"""Segment raw T1 scans and compare with prepared maps: `python benchmarks/t1.py DATA [SUBJECT ...]`.

DATA holds `t1/sub-*/anat/*_T1w.nii.gz`, `hemispheres/sub-*_hemi-{L,R}_gw.nii.gz` (100 grey, 200
white) and `affine/sub-*.npz` (`affine_mni2sub`, `rigid_mni2sub`). The prepared maps are another
run of N4, Atropos and a cerebrum prior on a rigidly aligned 1 mm grid, not a person's drawing:
Dice against them says how well the two agree. The maps here are sampled onto that grid by nearest
neighbour, which alone costs some per cent of the thin cortex.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from time import perf_counter

import nibabel as nib
import numpy as np
from scipy import ndimage

from napari_pcs.anatomy.t1.segment import T1Segmentation, segment_t1
from napari_pcs.commissures import AC_MNI
from napari_pcs.labels import Hemisphere
from napari_pcs.stop import StopToken
from napari_pcs.volume import Volume


def main(data: Path, chosen: list[str]) -> None:
    names = sorted(p.name for p in (data / "t1").glob("sub-*") if not chosen or p.name in chosen)
    print("subject wall_s cpu_s ac_mm grey_L white_L grey_R white_R stages")
    rows = []
    for name in names:
        row, stages = one(data, name)
        rows.append(row)
        print(name, *(f"{v:.3f}" if v < 1 else f"{v:.1f}" for v in row), stages, flush=True)
    print("mean", *(f"{v:.3f}" if v < 1 else f"{v:.1f}" for v in np.mean(rows, axis=0)))


def one(data: Path, name: str) -> tuple[list[float], str]:
    t1 = Volume.read(data / "t1" / name / "anat" / f"{name}_T1w.nii.gz")
    start, cpu = perf_counter(), cpu_of_children()
    *_, result = segment_t1(t1, stop=StopToken())
    row = [perf_counter() - start, cpu_of_children() - cpu]
    if not isinstance(result, T1Segmentation):
        raise TypeError(result)
    affines = np.load(data / "affine" / f"{name}.npz")
    ac = (affines["affine_mni2sub"] @ [*AC_MNI, 1])[:3]
    row.append(float(np.linalg.norm(ac - result.commissures.ac_mm)))
    for hemisphere in Hemisphere:
        prepared = nib.load(data / "hemispheres" / f"{name}_hemi-{hemisphere}_gw.nii.gz")
        reference = np.asarray(prepared.dataobj) // 100
        to_ours = np.linalg.inv(t1.affine) @ affines["rigid_mni2sub"] @ prepared.affine
        ours = ndimage.affine_transform(
            result.tissue[hemisphere].data, to_ours[:3, :3], to_ours[:3, 3], output_shape=reference.shape, order=0
        )
        row += [dice(reference == value, ours == value) for value in (1, 2)]
    return row, " ".join(f"{k} {v:.0f}" for k, v in result.timings_s.items())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
