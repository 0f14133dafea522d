"""The MNI152 template as a scan of its own: moved by a known affine."""

import numpy as np
import pytest
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from scipy.spatial.transform import Rotation

from napari_pcs.volume import Volume

SPACING_MM = 2


@pytest.fixture(scope="session")
def moved():
    """(4, 4): MNI152 mm to the moved scan's world mm; a turn, a smaller brain and a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [8, -4, 6], degrees=True).as_matrix() * 0.94
    matrix[:3, 3] = 9, -14, 21
    return matrix


@pytest.fixture(scope="session")
def template_scan(moved):
    image = load_mni152_template(resolution=SPACING_MM)
    data = np.asarray(image.dataobj, dtype=np.float32)
    data = np.where(data > 0.05 * data.max(), data * 1000, 0).astype(np.float32)
    return Volume.from_array(data, moved @ image.affine)


@pytest.fixture(scope="session")
def template_tissue():
    """Majority of nilearn's grey and white maps, on the grid of `template_scan`: 1 grey, 2 white."""
    grey, white = (
        np.asarray(load(resolution=SPACING_MM).dataobj) for load in (load_mni152_gm_template, load_mni152_wm_template)
    )
    return np.where(grey + white > 0.5, np.where(white > grey, 2, 1), 0)
