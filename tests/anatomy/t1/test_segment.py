import subprocess
import sys
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.t1 import bridge
from napari_pcs.anatomy.t1.segment import T1Segmentation, segment_t1
from napari_pcs.commissures import AC_MNI, PC_MNI, FrameSource
from napari_pcs.errors import CancelledError, InputError, PcsError
from napari_pcs.labels import Hemisphere
from napari_pcs.stop import StopToken


@pytest.fixture(scope="module")
def events(template_scan):
    pytest.importorskip("ants")
    return list(segment_t1(template_scan, stop=StopToken()))


@pytest.fixture(scope="module")
def result(events):
    return events[-1]


def _move(matrix, point):
    return matrix[:3, :3] @ np.asarray(point) + matrix[:3, 3]


def test_steps_come_first_in_order_and_one_result_last(events):
    steps, last = events[:-1], events[-1]
    assert isinstance(last, T1Segmentation)
    assert all(isinstance(step, Step) for step in steps)
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] < 1


def test_the_commissures_of_a_moved_template_are_found_within_2_mm(result, moved):
    frame = result.commissures
    assert frame.source is FrameSource.REGISTRATION
    assert np.linalg.norm(np.asarray(frame.ac_mm) - _move(moved, AC_MNI)) < 2
    assert np.linalg.norm(np.asarray(frame.pc_mm) - _move(moved, PC_MNI)) < 2
    assert np.dot(frame.right, moved[:3, 0] / np.linalg.norm(moved[:3, 0])) > 0.998


def test_the_affine_leads_back_to_mni(result, moved):
    points = np.array([[60, 0, 0, 1], [-60, 0, 0, 1], [0, 60, 20, 1], [0, -90, 0, 1], [0, -10, 75, 1]])
    there = points @ moved.T @ np.asarray(result.commissures.to_mni).T
    assert np.abs(there - points).max() < 4


def test_each_hemisphere_lies_on_its_side_of_the_midline(result, moved, template_scan):
    for hemisphere, sign in ((Hemisphere.LEFT, -1), (Hemisphere.RIGHT, 1)):
        voxels = np.argwhere(result.tissue[hemisphere].data)
        mni = (voxels @ template_scan.affine[:3, :3].T + template_scan.affine[:3, 3] - moved[:3, 3]) @ np.linalg.inv(
            moved[:3, :3]
        ).T
        assert np.mean(sign * mni[:, 0] > -2) > 0.99


def test_no_voxel_belongs_to_both_hemispheres_and_the_cerebellum_to_none(result, template_scan, moved):
    left, right = (result.tissue[h].data for h in Hemisphere)
    assert not (left.astype(bool) & right.astype(bool)).any()
    cerebellum = np.linalg.inv(template_scan.affine) @ np.append(_move(moved, (-24, -62, -40)), 1)
    x, y, z = np.round(cerebellum[:3]).astype(int)
    assert template_scan.data[x, y, z] > 0
    assert not left[x - 3 : x + 4, y - 3 : y + 4, z - 3 : z + 4].any()


def test_the_tissue_agrees_with_the_maps_of_the_template(result, template_tissue):
    ours = np.maximum(*(result.tissue[h].data for h in Hemisphere))
    inside = ours > 0
    for value, least in ((1, 0.75), (2, 0.85)):
        a, b = (ours == value), (template_tissue == value) & inside
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > least


def test_everything_lies_on_the_grid_of_the_scan(result, template_scan):
    for volume in (result.image, *result.tissue.values()):
        assert volume.shape == template_scan.shape
        np.testing.assert_array_equal(volume.affine, template_scan.affine)
    assert result.image.data.dtype == np.float32
    assert {v.data.dtype for v in result.tissue.values()} == {np.dtype(np.uint8)}


def test_cancelling_between_stages_stops_and_leaves_no_folder(template_scan, tmp_path, monkeypatch):
    pytest.importorskip("ants")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stop = StopToken()
    running = segment_t1(template_scan, stop=stop)
    next(running)
    assert any(tmp_path.iterdir())
    stop.set()
    with pytest.raises(CancelledError):
        list(running)
    assert not any(tmp_path.iterdir())


def test_closing_the_iterator_ends_the_process(template_scan, monkeypatch):
    pytest.importorskip("ants")
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    running = segment_t1(template_scan, stop=StopToken())
    next(running)
    running.close()
    assert started[0].poll() is not None


def test_a_token_already_set_starts_nothing(template_scan, monkeypatch):
    pytest.importorskip("ants")
    monkeypatch.setattr(subprocess, "Popen", None)
    stop = StopToken()
    stop.set()
    with pytest.raises(CancelledError):
        next(segment_t1(template_scan, stop=stop))


def test_a_refusal_names_the_file(template_scan, tmp_path):
    pytest.importorskip("ants")
    flat = replace(template_scan, data=(template_scan.data > 0).astype(np.uint8), path=tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=r"mask\.nii\.gz.*different values"):
        list(segment_t1(flat, stop=StopToken()))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a script that is a program")
def test_a_process_that_fails_says_why(template_scan, monkeypatch, tmp_path):
    pytest.importorskip("ants")
    broken = tmp_path / "python"
    broken.write_text(f"#!{sys.executable}\nraise SystemExit('no memory left')\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(PcsError, match="no memory left"):
        list(segment_t1(template_scan, stop=StopToken()))


def test_without_ants_the_user_is_told_what_to_install(template_scan, monkeypatch):
    monkeypatch.setattr(bridge, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"napari-pcs\[t1\]"):
        next(segment_t1(template_scan, stop=StopToken()))
