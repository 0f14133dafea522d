"""Draw the picture of skeletons, fold pieces and proposals for the docs.

    python scripts/figures.py DATA docs/images/anatomy.png sub-07_hemi-L sub-10_hemi-R sub-22_hemi-L

DATA holds `hemispheres/<case>_gw.nii.gz` and `_T1w.nii.gz`. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from napari_pcs.anatomy.extraction import extract_skeleton
from napari_pcs.anatomy.foldgraph import FoldGraph
from napari_pcs.anatomy.importers import read_case
from napari_pcs.anatomy.length import measure_case
from napari_pcs.case import Case, LabelRole
from napari_pcs.labels import LABELS, Label
from napari_pcs.prepare import propose

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {entry.label: entry.color for entry in LABELS}
MEDIAL_MM = 18.0
SLICE_MM = 7.0


def sagittal(axes: Axes, case: Case, skeleton: np.ndarray) -> None:
    """The T1 and the skeleton in one slice off the midline."""
    world = case.tissue.affine[0, 0] * np.arange(case.tissue.shape[0]) + case.tissue.affine[0, 3]
    x = int(np.argmin(np.abs(np.abs(world) - SLICE_MM)))
    axes.imshow(case.image.data[x].T, cmap="gray", origin="lower")
    y, z = np.nonzero(skeleton[x])
    axes.scatter(y, z, s=3, c=COLORS[Label.SKELETON], linewidths=0)


def medial(axes: Axes, case: Case, values: np.ndarray, colors: np.ndarray) -> None:
    """Voxels near the midline seen from it; the nearest are drawn last."""
    index = np.argwhere(values > 0)
    world = index @ case.tissue.affine[:3, :3].T + case.tissue.affine[:3, 3]
    near = np.abs(world[:, 0]) < MEDIAL_MM
    order = np.argsort(-np.abs(world[near, 0]))
    index = index[near][order]
    axes.scatter(index[:, 1], index[:, 2], s=3, c=colors[values[tuple(index.T)]], linewidths=0)
    axes.set_facecolor("black")


def column(axes: list[Axes], path: Path) -> None:
    case, _ = read_case(path, image=path.with_name(path.name.replace("_gw", "_T1w")))
    skeleton = extract_skeleton(case)
    folds = FoldGraph.of(case, skeleton)
    case, notes = propose(case, folds)
    assert not notes, notes
    labels = case.labels[LabelRole.PROPOSED].data
    found = measure_case(case, labels)
    assert found is not None
    sagittal(axes[0], case, skeleton)
    random = np.random.default_rng(3).random((int(folds.labels.max()) + 1, 3)) * 0.8 + 0.2
    medial(axes[1], case, folds.labels, random)
    medial(axes[2], case, labels, np.array(["black", COLORS[Label.SKELETON], COLORS[Label.PCS]]))
    axes[0].set_title(case.key.stem, fontsize=9)
    axes[2].set_xlabel(f"PCS {found.length_mm:.0f} mm, {found.pcs_class}", fontsize=9)
    for ax in axes:
        ax.set(xticks=[], yticks=[], xlim=(0, case.tissue.shape[1]), ylim=(0, case.tissue.shape[2]))
        ax.set_aspect("equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("cases", nargs="+")
    args = parser.parse_args()
    _, grid = plt.subplots(3, len(args.cases), figsize=(3.6 * len(args.cases), 9), layout="constrained")
    for n, name in enumerate(args.cases):
        column(list(grid[:, n]), args.data / "hemispheres" / f"{name}_gw.nii.gz")
    for ax, title in zip(grid[:, 0], ("skeleton", "fold pieces", "proposal"), strict=True):
        ax.set_ylabel(title, fontsize=9)
    plt.savefig(args.target, dpi=110)


if __name__ == "__main__":
    main()
