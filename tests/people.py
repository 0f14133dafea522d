"""A person made of two phantoms."""

from typing import NamedTuple

import numpy as np

from napari_pcs.commissures import Commissures
from napari_pcs.data.phantom import CENTRE_MM, phantom
from napari_pcs.labels import Hemisphere

SPACING_MM = 1.25


class Person(NamedTuple):
    """Tissue (1 grey, 2 white) of both hemispheres on one RAS grid."""

    left: np.ndarray
    right: np.ndarray
    affine: np.ndarray
    commissures: Commissures

    def ribbon(self):
        data = np.zeros(self.left.shape, np.uint8)
        for tissue, white, grey in ((self.left, 2, 3), (self.right, 41, 42)):
            data[tissue == 1], data[tissue == 2] = grey, white
        return data

    def brain(self):
        return np.where((self.left + self.right) > 0, 60 + 40 * (self.left + self.right), 0).astype(np.uint8)

    def half(self, side):
        return self.left if side is Hemisphere.LEFT else self.right


def make_person():
    """Put the phantoms of both sides on one grid."""
    case, other = (phantom(side, spacing_mm=SPACING_MM) for side in Hemisphere)
    left, right = case.tissue, other.tissue
    over = round(CENTRE_MM[0] / SPACING_MM)
    width = 2 * (left.shape[0] - over) - 1
    shape = (width, *left.shape[1:])
    halves = np.zeros((2, *shape), np.uint8)
    halves[0][: left.shape[0]] = left.data[:, :, :]
    halves[1][width - right.shape[0] :] = right.data
    halves.flags.writeable = False
    return Person(halves[0], halves[1], left.affine, case.commissures)
