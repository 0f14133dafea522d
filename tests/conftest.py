"""Fixtures that several modules share: files in any orientation, small cases and a coarse phantom."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from builders import COARSE_MM, ORIENTATIONS, affine_of, asymmetric, skeleton_of
from cohorts import write_cohort
from people import make_person

from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume


def pytest_configure():
    """Share the processors among the processes of `pytest -n`, and what these start."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count > 1:
        threads = max(1, (os.cpu_count() or 1) // count)
        torch.set_num_threads(threads)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def pytest_collection_modifyitems(items):
    """Keep in one process what shares costly fixtures, a file, or a display, the GUI."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        item.add_marker(pytest.mark.xdist_group("gui" if place.parts[0] == "gui" else str(place)))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Keep this process, and those that it starts, out of the user's own cache; returns the folder in its place."""
    folder = tmp_path_factory.mktemp("cache") / "napari-pcs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_PCS_CACHE", str(folder))
        patch.delenv("NAPARI_PCS_CACHE_GB", raising=False)
        patch.setenv("NAPARI_PCS_ENGINE", "torch")  # trying OpenVINO out takes seconds; its own tests ask for it
        yield folder


@pytest.fixture(autouse=True)
def nothing_kept(cache_folder):
    """Leave no test the features and predictions of another; stored hemispheres stay, for they take long."""
    yield
    for name in ("features", "predictions"):
        shutil.rmtree(cache_folder / name, ignore_errors=True)


@pytest.fixture(scope="session")
def maps(tmp_path_factory):
    """Left hemispheres of five people, for pre-training; not to be changed."""
    return write_cohort(tmp_path_factory.mktemp("maps"), 5)


@pytest.fixture(params=ORIENTATIONS)
def orientation(request):
    return request.param


@pytest.fixture
def write_nifti(tmp_path):
    """Write an image with nibabel; `codes` are those of sform and qform, 0 leaves a form out."""

    def write(name="source.nii.gz", data=None, *, affine=None, codes=(1, 1), qform=None, unit="mm", folder=None):
        data = asymmetric() if data is None else data
        affine = affine_of("RAS") if affine is None else affine
        image = nib.Nifti1Image(data, None, dtype=data.dtype)
        image.header.set_xyzt_units(unit, "sec" if unit == "mm" else None)
        image.set_sform(affine if codes[0] else None, codes[0])
        image.set_qform(affine if qform is None else qform, codes[1])
        path = (folder or tmp_path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    return write


@pytest.fixture
def small_case():
    """Build cases of 7 x 8 x 9 voxels with a separate image and without labels."""

    def build(subject="01", session="", hemisphere=Hemisphere.LEFT, orientation="LPI"):
        affine = affine_of(orientation, (0.7, 1.0, 1.2))
        tissue = Volume.from_array(asymmetric(dtype=np.uint8) % 3, affine)
        image = Volume.from_array(asymmetric(dtype=np.float32, seed=8) / np.float32(7), affine)
        return Case(CaseKey(subject, session, hemisphere), tissue, image)

    return build


@pytest.fixture(scope="session")
def coarse_left():
    return _read_only(phantom(Hemisphere.LEFT, spacing_mm=COARSE_MM))


@pytest.fixture(scope="session")
def coarse_right():
    return _read_only(phantom(Hemisphere.RIGHT, spacing_mm=COARSE_MM))


@pytest.fixture(scope="session")
def coarse_skeletons(coarse_left, coarse_right):
    """Skeletons of the left and the right phantom."""
    return {case.key.hemisphere: skeleton_of(case) for case in (coarse_left, coarse_right)}


def _read_only(case):
    case.tissue.data.flags.writeable = False
    case.labels[LabelRole.REFERENCE].data.flags.writeable = False
    return case


@pytest.fixture(scope="session")
def person():
    """Both hemispheres of one head."""
    return make_person()


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


@pytest.fixture(scope="session")
def real_data():
    """Folder of real scans, by NAPARI_PCS_TEST_DATA or beside the repository; skips where there is none."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("NAPARI_PCS_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}")
    return folder
