"""Small arrays, affines, provenances and skeletons that several test modules build."""

import json

import numpy as np
from scipy.spatial.transform import Rotation

from napari_pcs.anatomy.frame import estimate_frame
from napari_pcs.anatomy.skeleton import skeletonize
from napari_pcs.labels import Hemisphere
from napari_pcs.provenance import ModelReference, Provenance

DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
ORIENTATIONS = ("RAS", "LAS", "LPI", "PIR", "ASL", "oblique")
COARSE_MM = 1.2


def affine_of(orientation, zooms=(1.0, 1.0, 1.0)):
    """Affine of an image whose array axes point to the named directions; `oblique` is LPI turned by 14 degrees."""
    turn = np.eye(3)
    if orientation == "oblique":
        orientation, turn = "LPI", Rotation.from_rotvec(np.radians(14) * np.array([1, 2, 3]) / np.sqrt(14)).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([DIRECTIONS[letter] for letter in orientation], dtype=float).T * np.asarray(zooms)
    affine[:3, 3] = -31.5, 12.25, 7.0
    return affine


def asymmetric(shape=(7, 8, 9), dtype=np.int16, seed=3):
    """Array without any symmetry and without zeros."""
    return (1 + np.random.default_rng(seed).permutation(int(np.prod(shape))) % 120).reshape(shape).astype(dtype)


def label_map(shape, seed=0, top=2):
    return np.random.default_rng(seed).integers(0, top + 1, shape).astype(np.uint8)


def predicted_by(hemisphere=Hemisphere.LEFT):
    return Provenance(manual=False, hemisphere=hemisphere.value, model=ModelReference(name="demo", digest="ab12"))


def corrected_by(editor="ada", seconds=41.5, hemisphere=Hemisphere.LEFT):
    return Provenance(
        manual=True,
        hemisphere=hemisphere.value,
        editor=editor,
        edit_seconds=seconds,
        model=ModelReference(name="demo", digest="ab12"),
    )


def write_landmarks(case, path):
    """Write the commissures of a case as BIDS landmarks beside a file of its map, which then needs no alignment."""
    landmarks = case.commissures.sidecar(np.linalg.inv(case.tissue.source_affine))["AnatomicalLandmarkCoordinates"]
    sidecar = path.with_name(path.name.split(".nii")[0] + ".json")
    sidecar.write_text(json.dumps({"AnatomicalLandmarkCoordinates": landmarks}))


def frame_of(case):
    return estimate_frame(case.tissue.data > 0, case.tissue.spacing, case.key.hemisphere)


def skeleton_of(case):
    tissue = case.tissue.data
    return skeletonize(tissue == 1, tissue == 2, frame_of(case))


def filled_blocks(mask):
    """Count the 2 x 2 x 2 blocks that are filled."""
    pairs = mask[:-1] & mask[1:]
    squares = pairs[:, :-1] & pairs[:, 1:]
    return int((squares[:, :, :-1] & squares[:, :, 1:]).sum())
