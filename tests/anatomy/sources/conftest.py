"""What belongs to the trees that programs write of a person."""

import json

import pytest


@pytest.fixture
def landmarks():
    """Write the BIDS sidecar of an image: AC and PC in voxels of the stored file."""

    def write(image, ac, pc):
        path = image.with_name(image.name.removesuffix(".nii.gz") + ".json")
        path.write_text(json.dumps({"AnatomicalLandmarkCoordinates": {"AC": list(ac), "PC": list(pc)}}))
        return path

    return write
