"""Weak labels for the comparison of objectives: skeleton and proposed PCS of 20 people's left hemispheres.

    python scripts/pretraining/labels.py DATA WORK

DATA holds `hemispheres/sub-XX_hemi-{L,R}_gw.nii.gz`. The last 10 people judge, the 10 before them are the labelled
cases of the probe; nobody has looked at these labels, they are made by rule. WORK/unlabelled gets links to both
hemispheres of everybody who does not judge.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from napari_pcs.anatomy.extraction import extract_skeleton
from napari_pcs.anatomy.foldgraph import FoldGraph
from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.grid import NetworkGrid
from napari_pcs.anatomy.importers import read_case
from napari_pcs.case import LabelRole
from napari_pcs.prepare import propose

LABELLED = JUDGES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    maps = sorted((args.data / "hemispheres").glob("*_gw.nii.gz"))
    people = sorted({path.name.split("_")[0] for path in maps})
    judges, labelled = people[-JUDGES:], people[-JUDGES - LABELLED : -JUDGES]
    for folder in ("unlabelled", "labelled", "judges"):
        (args.work / folder).mkdir(parents=True, exist_ok=True)
    for path in maps:
        person = path.name.split("_")[0]
        link = args.work / "unlabelled" / path.name
        if person not in judges and not link.exists():
            link.symlink_to(path.resolve())
        if "_hemi-L_" in path.name and person in judges + labelled:
            write(path, args.work / ("judges" if person in judges else "labelled"))


def write(path: Path, folder: Path) -> None:
    """Store one hemisphere and its weak labels on the network's grid."""
    target = folder / f"{path.name.removesuffix('_gw.nii.gz')}.npz"
    if target.exists():
        return
    case, _ = read_case(path)
    proposed, notes = propose(case, FoldGraph.of(case, extract_skeleton(case)))
    if notes:
        msg = f"{case.key.stem}: {notes[0]}"
        raise SystemExit(msg)
    tissue = case.tissue
    grid = NetworkGrid(estimate_frame(tissue.data > 0, tissue.spacing, case.key.hemisphere), tissue.shape)
    labels = np.round(grid.pull(proposed.labels[LabelRole.PROPOSED].data, order=0)).astype(np.uint8)
    np.savez_compressed(
        target,
        tissue=np.round(grid.pull(tissue.data)).astype(np.uint8),
        labels=labels,
        position=grid.position().astype(np.float16),
    )
    print(f"{case.key.stem}: {np.count_nonzero(labels == 2)} voxels of PCS", flush=True)


if __name__ == "__main__":
    main()
