import numpy as np
import pytest
from scipy import ndimage

from napari_pcs.anatomy.t1.alignment import Template, load_template
from napari_pcs.anatomy.t1.checks import foreground
from napari_pcs.anatomy.t1.head import search_start
from napari_pcs.anatomy.t1.skull import brain_mask, has_skull
from napari_pcs.errors import InputError


@pytest.fixture(scope="module")
def head():
    """The template with 3 mm fluid, 6 mm dark bone, 7 mm bright scalp and noise; array, brain, template."""
    template = load_template()
    data = np.pad(template.data / template.data.max(), 12)
    affine = template.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [12, 12, 12]
    brain = ndimage.binary_fill_holes(data > 0)
    out = ndimage.distance_transform_edt(~brain, 2.0)
    whole = np.where(brain, data, 0.15 * (out < 3) + 0.05 * ((out >= 3) & (out < 9)) + 0.9 * ((out >= 9) & (out < 16)))
    whole = np.abs(whole + np.random.default_rng(0).normal(0, 0.02, whole.shape)).astype(np.float32)
    return whole, brain, affine, template


def test_a_head_has_a_skull_and_its_brain_has_none(head):
    whole, brain, *_ = head
    assert has_skull(foreground(whole), (2.0, 2.0, 2.0))
    assert not has_skull(foreground(np.where(brain, whole, 0)), (2.0, 2.0, 2.0))


def test_the_brain_is_taken_out_of_the_head(head):
    whole, brain, affine, template = head
    found = brain_mask(whole, affine, np.eye(4), template)
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.93


def test_the_brain_is_taken_out_although_the_alignment_is_4_mm_off(head):
    whole, brain, affine, template = head
    off = np.eye(4)
    off[:3, 3] = 2, -3, 2
    found = brain_mask(whole, affine, off, template)
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.92


def test_a_head_without_a_brain_is_refused(head):
    whole, brain, affine, template = head
    empty = np.where(brain & (np.indices(whole.shape).sum(axis=0) % 2 == 0), 1, 0).astype(np.float32)
    with pytest.raises(InputError, match="no brain could be found"):
        brain_mask(empty, affine, np.eye(4), template)


def test_the_search_finds_a_head_that_is_shifted_and_nods(head):
    whole, _, affine, template = head
    angle = np.radians(20)
    moved = np.eye(4)
    moved[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved[:3, 3] = 6, -25, 30
    to_head = search_start(whole, foreground(whole), moved @ affine, Template(*template))
    points = np.array([[0, 0, 0, 1], [0, 60, 20, 1], [0, -80, 0, 1], [0, -20, 70, 1]])
    assert np.linalg.norm(points @ (to_head - moved).T, axis=1).max() < 15
