"""Fit the frequency maps of the medial sulci by mixtures of Gaussians: the table that ships with the package.

    python scripts/atlas/fit_priors.py PRIORS src/napari_pcs/anatomy/shipped/priors.json

PRIORS holds deep_folding's masks (`paracingular._left.nii.gz`, `F.C.M.ant._left.nii.gz`, `F.C.M.post._left.nii.gz`
and the same for the right): counts of people at 2 mm in MNI152. Source: neurospin/deep_folding, CeCILL-B.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.optimize import least_squares

from napari_pcs.volume import Volume

COMPONENTS = 8
NAMES = {"pcs": "paracingular", "cingulate": "F.C.M.ant", "cingulate-posterior": "F.C.M.post"}
SOURCE = "Mixtures of Gaussians fitted to the sulcal masks of neurospin/deep_folding (CeCILL-B)"
TRIANGLE = np.tril_indices(3)


def evaluate(parameters: np.ndarray, points: np.ndarray) -> np.ndarray:
    total = np.zeros(len(points))
    for row in parameters.reshape(-1, 10):
        root = np.zeros((3, 3))
        root[TRIANGLE] = row[4:]
        total += row[0] * np.exp(-0.5 * (((points - row[1:4]) @ root) ** 2).sum(axis=1))
    return total


def start(points: np.ndarray, share: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    drawn = points[rng.choice(len(points), 4000, p=share / share.sum())] + rng.normal(0, 0.5, (4000, 3))
    centres, member = kmeans2(drawn, COMPONENTS, seed=1, minit="++")
    rows = []
    for k, centre in enumerate(centres):
        covariance = np.cov(drawn[member == k].T) + 4 * np.eye(3)
        rows.append([0.5, *centre, *np.linalg.cholesky(np.linalg.inv(covariance))[TRIANGLE]])
    return np.ravel(rows)


def fit(volume: Volume, highest: float) -> tuple[np.ndarray, float]:
    share = volume.data / highest
    near = ndimage.binary_dilation(share > 0, iterations=3)
    points = np.argwhere(near) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    wanted = share[near]
    found = least_squares(lambda p: evaluate(p, points) - wanted, start(points, wanted), max_nfev=60, x_scale="jac").x
    return found.reshape(-1, 10), float(np.corrcoef(evaluate(found, points), wanted)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("priors", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    table: dict[str, object] = {"source": SOURCE}
    for role, name in NAMES.items():
        volumes = {side: Volume.read(args.priors / f"{name}._{side}.nii.gz") for side in ("left", "right")}
        highest = max(float(v.data.max()) for v in volumes.values())
        for side, volume in volumes.items():
            rows, r = fit(volume, highest)
            print(f"{role} {side}: r = {r:.3f}", flush=True)
            table[f"{role}_{side}"] = [[float(f"{v:.5g}") for v in row] for row in rows]
    args.target.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
