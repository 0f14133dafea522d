"""Proposals without a network on a cohort, beside published population figures.

    python benchmarks/proposal.py DATA [--priors DIR] [--tsv FILE]

DATA holds `hemispheres/sub-XX_hemi-{L,R}_gw.nii.gz`. Published: presence in 92 of 120 left and 68 of 120 right
hemispheres, median length 35.1 and 36.4 mm, 20.6 mm the shortest, 52 and 57 % below 40 mm
(cnl-berkeley/stable_projects, VariablePresence_Impulsivity). Nobody has labelled the hemispheres measured here: the
table says how often and how long the rule finds a PCS, not how well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from napari_pcs.anatomy.extraction import extract_skeleton
from napari_pcs.anatomy.foldgraph import FoldGraph
from napari_pcs.anatomy.importers import read_case
from napari_pcs.anatomy.length import measure_mask
from napari_pcs.anatomy.preset import DEFAULT_PRESET
from napari_pcs.anatomy.priors import read_priors, shipped_priors
from napari_pcs.anatomy.proposal import propose_pcs
from napari_pcs.labels import Hemisphere

PUBLISHED = {"L": (92, 120, 35.1, 20.6, 110.6, 47 / 90), "R": (68, 120, 36.4, 20.7, 118.7, 39 / 68)}


def proposed_length(path: Path, priors: Path | None) -> tuple[str, float]:
    case, _ = read_case(path)
    side = case.key.hemisphere
    folds = FoldGraph.of(case, extract_skeleton(case))
    pcs = propose_pcs(case, folds, read_priors(priors, side) if priors else shipped_priors(side))
    return case.key.stem, measure_mask(pcs, case.tissue.affine, case.commissures, DEFAULT_PRESET).length_mm


def row(side: str, lengths: np.ndarray) -> str:
    present = lengths[lengths >= DEFAULT_PRESET.small_from_mm]
    n, of, median, low, high, short = PUBLISHED[side]
    ours = (
        f"{len(present)}/{len(lengths)} ({len(present) / len(lengths):.0%}) | {np.median(present):.1f}"
        f" | {present.min():.1f}-{present.max():.1f} | {(present < DEFAULT_PRESET.present_from_mm).mean():.0%}"
    )
    theirs = f"{n}/{of} ({n / of:.0%}) | {median} | {low}-{high} | {short:.0%}"
    return f"| {'left' if side == 'L' else 'right'} | {ours} | {theirs} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--priors", type=Path)
    parser.add_argument("--tsv", type=Path)
    args = parser.parse_args()
    found = dict(proposed_length(path, args.priors) for path in sorted((args.data / "hemispheres").glob("*_gw.nii.gz")))
    print("| side | ours: present | median mm | range | below 40 | published: present | median | range | below 40 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for side in Hemisphere:
        print(row(side.value, np.array([mm for name, mm in found.items() if name.endswith(side.value)])))
    if args.tsv:
        args.tsv.write_text("case\tlength_mm\n" + "".join(f"{name}\t{mm:.1f}\n" for name, mm in found.items()))


if __name__ == "__main__":
    main()
