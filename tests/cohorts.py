"""Small folders of hemispheres for pre-training, written as grey/white maps."""

import nibabel as nib
import numpy as np

from napari_pcs.data.phantom import phantom
from napari_pcs.labels import Hemisphere


def write_cohort(folder, people, sides="L"):
    """Write grey/white maps of phantoms with voxels of 2 mm."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(people):
        for side in sides:
            case = phantom(Hemisphere(side), spacing_mm=2.0, seed=n, pcs_length_mm=20.0 * (n % 4))
            image = nib.Nifti1Image(case.tissue.data * np.uint8(100), case.tissue.affine)
            nib.save(image, folder / f"sub-{n:02}_hemi-{side}_gw.nii.gz")
    return folder


def damage(folder, *people):
    """Make the files of these people unreadable."""
    for n in people:
        for path in folder.glob(f"sub-{n:02}_*"):
            path.write_bytes(path.read_bytes()[:200])
