"""The same tissue scanned twice: how much skeleton, proposed PCS, its length and its class differ.

    python benchmarks/repeatability.py DATA [--people 5]

The second scan is the first one's tissue map on a grid that is turned by 5 degrees and shifted by half a voxel. It
holds no new noise and no second segmentation: what differs is the software's own doing, and the least that a real
second session would differ by.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from skeleton import Scan, agreement, points, read, rescan

from napari_pcs.anatomy.extraction import extract_skeleton
from napari_pcs.anatomy.foldgraph import FoldGraph
from napari_pcs.anatomy.length import measure_case
from napari_pcs.anatomy.location import locate
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole
from napari_pcs.prepare import propose
from napari_pcs.volume import Volume

DEGREES, SHIFT_MM = 5.0, 0.5


def work_up(scan: Scan) -> tuple[np.ndarray, np.ndarray, float, str]:
    """Skeleton and PCS points in mm, length and class, all from the tissue map alone."""
    volume = Volume.from_array(scan.tissue, scan.affine)
    case, _ = locate(Case(CaseKey("a", "", scan.hemisphere), volume, volume))
    skeleton = extract_skeleton(case)
    case, notes = propose(case, FoldGraph.of(case, skeleton))
    if notes:
        raise SystemExit(notes[0])
    labels = case.labels[LabelRole.PROPOSED].data
    found = measure_case(case, labels)
    return points(skeleton, volume.affine), points(labels == 2, volume.affine), found.length_mm, found.pcs_class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--people", type=int, default=5)
    args = parser.parse_args()
    paths = sorted((args.data / "hemispheres").glob("*_gw.nii.gz"))[:: 2 * 55 // (2 * args.people)][: 2 * args.people]
    rows = []
    print("case  skeleton_nsd  pcs_nsd  first_mm  second_mm  first_class  second_class")
    for path in paths:
        first = read(path)
        one, two = work_up(first), work_up(rescan(first, degrees=DEGREES, shift_mm=SHIFT_MM))
        pcs = agreement(one[1], two[1]) if len(one[1]) and len(two[1]) else float("nan")
        rows.append((agreement(one[0], two[0]), pcs, one[2], two[2], one[3] == two[3]))
        print(
            f"{path.name[:13]}  {rows[-1][0]:.3f}  {pcs:.3f}  {one[2]:.1f}  {two[2]:.1f}  {one[3]}  {two[3]}",
            flush=True,
        )
    table = np.array(rows, dtype=float)
    apart = np.abs(table[:, 2] - table[:, 3])
    print(
        f"skeleton NSD {table[:, 0].mean():.3f}, PCS NSD {np.nanmean(table[:, 1]):.3f}, length apart by "
        f"{apart.mean():.1f} mm on average ({np.median(apart):.1f} median, {apart.max():.1f} worst), same class "
        f"{int(table[:, 4].sum())} of {len(table)}"
    )


if __name__ == "__main__":
    main()
