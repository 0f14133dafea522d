"""From probabilities to labels, and how sure they are."""

import numpy as np
import pytest
from scipy import ndimage

from napari_pcs.anatomy.landmarks import WORLD
from napari_pcs.anatomy.length import measure
from napari_pcs.anatomy.preset import DEFAULT_PRESET
from napari_pcs.inference.labelling import labels_from, least_voxels, uncertainty_of


def test_labels_are_what_a_hand_works_out():
    table = [
        # P(skeleton), P(PCS), label
        (0.0, 0.0, 0),
        (0.49, 0.49, 0),
        (0.5, 0.0, 1),
        (0.5, 0.2, 1),
        (0.5, 0.25, 2),
        (0.9, 0.44, 1),
        (0.9, 0.45, 2),
        (1.0, 1.0, 2),
    ]
    probabilities = np.zeros((2 * len(table), 5, 1, 2), np.float32)
    for n, (skeleton, pcs, _) in enumerate(table):
        probabilities[2 * n] = skeleton, pcs  # rows of five voxels that do not touch
    assert labels_from(probabilities)[::2, 0, 0].tolist() == [label for *_, label in table]


@pytest.mark.parametrize(("voxels", "label"), [(1, 1), (4, 1), (5, 2), (9, 2)])
def test_a_speck_of_pcs_too_small_to_measure_becomes_skeleton_again(voxels, label):
    probabilities = np.zeros((20, 20, 20, 2), np.float32)
    path = [(n, n, n) for n in range(voxels)]  # joined by corners
    for voxel in path:
        probabilities[voxel] = 1, 1
    probabilities[15, 15, :8] = 1, 1  # a piece that stays
    labels = labels_from(probabilities)
    assert {labels[voxel] for voxel in path} == {label}
    assert (labels[15, 15, :8] == 2).all()
    assert np.count_nonzero(labels) == voxels + 8
    assert len(measure(labels, np.eye(4), WORLD, DEFAULT_PRESET).pieces) == label


def test_no_piece_of_pcs_is_smaller_than_what_is_measured_and_the_skeleton_is_untouched():
    rng = np.random.default_rng(0)
    skeleton = rng.random((24, 24, 24)).astype(np.float32)
    probabilities = np.stack([skeleton, skeleton * rng.random(skeleton.shape, dtype=np.float32) * 0.6], axis=-1)
    labels = labels_from(probabilities)
    np.testing.assert_array_equal(labels > 0, skeleton >= 0.5)
    pieces, n = ndimage.label(labels == 2, np.ones((3, 3, 3)))
    assert n > 0
    assert np.bincount(pieces.ravel())[1:].min() >= 5
    np.testing.assert_array_equal(labels_from(probabilities[::-1]), labels[::-1])


def rod(voxels, shape=(12, 12, 90)):
    probabilities = np.zeros((*shape, 2), np.float32)
    probabilities[5, 5, :voxels] = 1, 1
    return probabilities


@pytest.mark.parametrize(("voxels", "label"), [(11, 1), (12, 2)])
def test_the_smallest_piece_can_be_chosen(voxels, label):
    assert labels_from(rod(voxels), min_voxels=12).max() == label


@pytest.mark.parametrize(
    ("spacing", "voxels"), [((1.0, 1.0, 1.0), 20), ((0.8, 0.8, 0.8), 39), ((1.0, 1.0, 2.0), 10), ((3.0, 2.0, 2.0), 5)]
)
def test_the_smallest_piece_is_20_mm3_and_never_too_small_to_measure(spacing, voxels):
    assert least_voxels(spacing) == voxels


def test_without_any_skeleton_there_are_no_labels_and_no_uncertainty():
    assert not labels_from(np.zeros((4, 4, 4, 2), np.float32)).any()
    assert uncertainty_of(np.zeros((2, 4, 4, 4), np.float32)) == 0


def test_uncertainty_is_one_bit_for_a_coin_and_none_for_certainty():
    skeleton = np.full((4, 4, 4), 0.8, np.float32)
    assert uncertainty_of(np.stack([skeleton, skeleton / 2])) == pytest.approx(1)
    assert uncertainty_of(np.stack([skeleton, skeleton])) == pytest.approx(0, abs=1e-4)
