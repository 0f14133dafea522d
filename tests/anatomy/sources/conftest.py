"""A person made of two phantoms, and the trees that programs would write of it."""

import json
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

from napari_pcs.data.phantom import CENTRE_MM, phantom
from napari_pcs.labels import Hemisphere

SPACING_MM = 1.25


class Person(NamedTuple):
    """Tissue (1 grey, 2 white) of both hemispheres on one RAS grid."""

    left: np.ndarray
    right: np.ndarray
    affine: np.ndarray

    def ribbon(self):
        data = np.zeros(self.left.shape, np.uint8)
        for tissue, white, grey in ((self.left, 2, 3), (self.right, 41, 42)):
            data[tissue == 1], data[tissue == 2] = grey, white
        return data

    def brain(self):
        return np.where((self.left + self.right) > 0, 60 + 40 * (self.left + self.right), 0).astype(np.uint8)

    def half(self, side):
        return self.left if side is Hemisphere.LEFT else self.right


@pytest.fixture(scope="session")
def person():
    left, right = (phantom(side, spacing_mm=SPACING_MM).tissue for side in Hemisphere)
    over = round(CENTRE_MM[0] / SPACING_MM)
    width = 2 * (left.shape[0] - over) - 1
    shape = (width, *left.shape[1:])
    halves = np.zeros((2, *shape), np.uint8)
    halves[0][: left.shape[0]] = left.data[:, :, :]
    halves[1][width - right.shape[0] :] = right.data
    halves.flags.writeable = False
    return Person(halves[0], halves[1], left.affine)


@pytest.fixture
def save(tmp_path):
    """Write an array as NIfTI or MGH below the test's folder."""

    def write(name, data, affine, code=1):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mgz":
            nib.save(nib.MGHImage(data, affine), path)
        else:
            image = nib.Nifti1Image(data, affine)
            image.set_sform(affine, code)
            nib.save(image, path)
        return path

    return write


@pytest.fixture
def landmarks():
    """Write the BIDS sidecar of an image: AC and PC in voxels of the stored file."""

    def write(image, ac, pc):
        path = image.with_name(image.name.removesuffix(".nii.gz") + ".json")
        path.write_text(json.dumps({"AnatomicalLandmarkCoordinates": {"AC": list(ac), "PC": list(pc)}}))
        return path

    return write
