"""Prepare hemispheres for the starter model: skeleton, weak PCS label, network grid.

    python scripts/starter/prepare.py DATA PREPARED

DATA holds `hemispheres/sub-XX_hemi-{L,R}_gw.nii.gz` and `priors/` (frequency maps of deep_folding: paracingular,
F.C.M.ant, F.C.M.post). The starter that ships was trained on the labels of an earlier rule, which decided voxel by
voxel and knew nothing of the person's own callosum; its card says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.anatomy.extraction import extract_skeleton
from napari_pcs.anatomy.foldgraph import FoldGraph
from napari_pcs.anatomy.grid import NetworkGrid
from napari_pcs.anatomy.importers import read_case
from napari_pcs.anatomy.length import measure_case
from napari_pcs.case import LabelRole
from napari_pcs.predict import frame_of
from napari_pcs.prepare import propose

if TYPE_CHECKING:
    from napari_pcs.case import Case


def weak_labels(case: Case, data: Path) -> np.ndarray:
    """Return a label map: skeleton 1, proposed PCS 2."""
    proposed, notes = propose(case, FoldGraph.of(case, extract_skeleton(case)), data / "priors")
    if notes:
        msg = f"{case.key.stem}: {notes[0]}"
        raise SystemExit(msg)
    return proposed.labels[LabelRole.PROPOSED].data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("prepared", type=Path)
    args = parser.parse_args()
    args.prepared.mkdir(parents=True, exist_ok=True)
    for path in sorted((args.data / "hemispheres").glob("*_gw.nii.gz")):
        case, _ = read_case(path)
        labels = weak_labels(case, args.data)
        found = measure_case(case, labels)
        assert found is not None  # the proposal needed the commissures too
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
