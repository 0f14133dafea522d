import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources import find_sources
from napari_pcs.anatomy.sources.bids import BidsScan
from napari_pcs.anatomy.sources.t1w import T1Scan, is_label_map
from napari_pcs.case import Case
from napari_pcs.commissures import FrameSource
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.stop import StopToken
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


@pytest.fixture
def scan(save, person):
    """Write a T1: grey values with noise, so that it is no map."""

    def write(name="sub-ada_T1w.nii.gz"):
        noise = np.random.default_rng(1).normal(0, 9, person.left.shape)
        return save(name, (person.brain() + noise).astype(np.float32), person.affine)

    return write


@pytest.fixture
def segmentation(monkeypatch, person, coarse_left):
    """Stand in for the segmentation: what is known of the person, at once."""
    asked = []

    def segment_t1(t1, *, stop):
        asked.append(t1.path)
        yield Step("Segmenting", 0.2)
        halves = {side: Volume.from_array(person.half(side), t1.affine) for side in Hemisphere}
        yield SimpleNamespace(image=t1, tissue=halves, commissures=coarse_left.commissures)

    for name in ("napari_pcs.anatomy.t1", "napari_pcs.anatomy.t1.segment"):
        module = ModuleType(name)
        module.segment_t1 = segment_t1
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_a_scan_is_recognised_and_segmented_once_for_both_sides(scan, segmentation, person):
    path = scan()
    (source,) = find_sources(path)
    assert (type(source), source.subject) == (T1Scan, "ada")
    events = list(source.read(None, StopToken()))
    left, right = (e for e in events if isinstance(e, Case))
    assert segmentation == [path]
    np.testing.assert_array_equal(left.tissue.data, person.left)
    np.testing.assert_array_equal(right.tissue.data, person.right)
    assert left.image.path == path
    fractions = [e.fraction for e in events if isinstance(e, Step)]
    assert fractions == sorted(fractions)


def test_landmarks_beside_the_scan_come_before_those_of_the_segmentation(scan, segmentation, landmarks):
    path = scan()
    landmarks(path, (60, 74, 50), (60, 54, 50))
    (case,) = (e for e in find_sources(path, L)[0].read(None, StopToken()) if isinstance(e, Case))
    assert case.commissures.source is FrameSource.FILE


def test_a_bids_folder_gives_every_scan_and_no_derivative(scan, tmp_path):
    scan("raw/sub-bob/ses-1/anat/sub-bob_ses-1_T1w.nii.gz")
    scan("raw/sub-bob/ses-2/anat/sub-bob_ses-2_T1w.nii.gz")
    scan("raw/sub-ada/anat/sub-ada_run-1_T1w.nii.gz")
    scan("raw/sub-ada/anat/sub-ada_run-2_T1w.nii.gz")
    scan("raw/sub-ada/anat/sub-ada_desc-preproc_T1w.nii.gz")
    scan("raw/derivatives/sub-eve/anat/sub-eve_T1w.nii.gz")
    found = find_sources(tmp_path / "raw")
    assert all(type(source) is BidsScan for source in found)
    assert [source.key(L).stem for source in found] == [
        "sub-ada_ses-run1_hemi-L",
        "sub-ada_ses-run2_hemi-L",
        "sub-bob_ses-1_hemi-L",
        "sub-bob_ses-2_hemi-L",
    ]
    assert [s.key(R).stem for s in find_sources(tmp_path / "raw/sub-bob/ses-2", R)] == ["sub-bob_ses-2_hemi-R"]


def test_a_single_run_keeps_its_plain_name(scan, tmp_path):
    scan("raw/sub-ada/anat/sub-ada_run-1_T1w.nii.gz")
    assert [source.key(L).stem for source in find_sources(tmp_path / "raw")] == ["sub-ada_hemi-L"]


def test_a_parcellation_is_not_taken_for_a_scan(save):
    blocks = np.kron(np.arange(1, 126).reshape(5, 5, 5), np.ones((6, 6, 6))).astype(np.int16)
    assert is_label_map(blocks)
    with pytest.raises(InputError, match=r"^aparc.mgz: found a map of 125 labels.*give the folder"):
        find_sources(save("aparc.mgz", blocks, np.eye(4)))


def test_the_real_scans_are_found(real_data):
    found = find_sources(real_data / "t1")
    assert [source.subject for source in found] == ["01", "03", "08", "11", "21", "36"]
