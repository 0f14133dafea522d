from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import corrected_by, predicted_by
from scipy import ndimage

from napari_pcs.anatomy.grid import on_grid
from napari_pcs.bids import CaseKey
from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.looked import Looked
from napari_pcs.predict import network_input
from napari_pcs.training.examples import build_example
from napari_pcs.training.losses import UNKNOWN_CLASS

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
CORRECTED, PREDICTED, PROPOSED = LabelRole.CORRECTED, LabelRole.PREDICTED, LabelRole.PROPOSED


@pytest.fixture(scope="module")
def case():
    return replace(phantom(L), key=CaseKey("ada", "", L))


def labels_of(case):
    return case.truth[1].data


def built(case, *, position=False, multiple=32):
    return build_example(case, position=position, multiple=multiple)


def partly(case, looked, **more):
    provenance = corrected_by().model_copy(update={"partly_done": True, "looked_at": looked})
    return case.with_labels(CORRECTED, labels_of(case), provenance, **more)


def inside(example, array):
    """Cut the padding off."""
    return array[..., *(slice(n) for n in example.box)]


# Image, targets and class


@pytest.mark.parametrize("multiple", [8, 32])
def test_an_example_is_the_networks_input_with_the_labels_on_the_same_grid(case, multiple):
    found, prepared = built(case, position=True, multiple=multiple), network_input(case, position=True)
    assert found.name == "sub-ada_hemi-L"
    assert found.subject == "ada"
    assert found.box == prepared.image.shape[1:]
    np.testing.assert_array_equal(inside(found, found.image)[0].numpy(), prepared.image)
    labels = prepared.grid.pull(labels_of(case), order=0)
    np.testing.assert_array_equal(inside(found, found.targets)[0].numpy(), np.stack([labels >= 1, labels == 2]))
    assert 0 < found.targets[0, 1].sum() < found.targets[0, 0].sum()


@pytest.mark.parametrize("multiple", [8, 32])
def test_sides_are_the_next_multiple_and_what_is_added_is_empty(case, multiple):
    found = built(case, position=True, multiple=multiple)
    sides = tuple(-(-n // multiple) * multiple for n in found.box)
    for tensor, channels in ((found.image, 4), (found.targets, 2), (found.looked, 1)):
        assert tensor.shape == (1, channels, *sides)
    assert found.changed.shape == sides
    for tensor in (found.image, found.targets):
        assert torch.count_nonzero(tensor) == torch.count_nonzero(inside(found, tensor))
    assert found.image.dtype == found.targets.dtype == torch.float32
    assert found.looked.dtype == torch.bool
    assert found.class_index.dtype == torch.int64
    assert found.changed.dtype == bool


def test_left_and_right_of_the_same_shape_are_the_same_example():
    left, right = (built(phantom(side), position=True) for side in (L, R))
    for name in ("image", "targets", "looked", "class_index"):
        assert torch.equal(getattr(left, name), getattr(right, name))
    np.testing.assert_array_equal(left.changed, right.changed)
    assert (left.box, left.origin) == (right.box, right.origin)


def test_position_is_0_at_the_origin(case):
    found = built(case, position=True)
    x, y, z = found.origin
    for channel, index in ((1, (x, 0, 0)), (2, (0, y, 0)), (3, (0, 0, z))):
        assert found.image[0, channel][index] == 0


@pytest.mark.parametrize("spacing", [0.5, 0.7, 0.8, 1.2])
def test_sheets_of_another_voxel_size_are_as_many_pieces_and_about_as_large(spacing):
    coarse, other = (built(phantom(L, spacing_mm=mm)).targets[0].numpy() > 0 for mm in (1.0, spacing))
    assert np.all(other[1] <= other[0])
    for one, two in zip(coarse, other, strict=True):
        assert ndimage.label(two, np.ones((3, 3, 3)))[1] == ndimage.label(one, np.ones((3, 3, 3)))[1]
        assert 0.95 < two.sum() / one.sum() < 1.4


@pytest.mark.parametrize(("mm", "index"), [(0, 0), (30, 1), (60, 2)])
def test_the_class_follows_the_length(mm, index):
    assert built(phantom(pcs_length_mm=mm, spacing_mm=1.2)).class_index.tolist() == [index]


def test_without_commissures_the_class_is_unknown_and_the_labels_are_as_good_as_ever(case):
    found, known = built(replace(case, commissures=None)), built(case)
    assert found.class_index.tolist() == [UNKNOWN_CLASS]
    assert torch.equal(found.targets, known.targets)
    assert found.looked.all()


def test_a_correction_is_preferred_to_a_reference(case):
    labels = (labels_of(case) == 2).astype(np.uint8)
    found = built(case.with_labels(CORRECTED, labels, corrected_by()))
    assert torch.equal(found.targets[:, 0], built(case).targets[:, 1])
    assert not found.targets[:, 1].any()
    assert found.class_index.item() == 0


def test_labels_without_any_skeleton_are_refused_by_name(case):
    empty = case.with_labels(CORRECTED, np.zeros(case.tissue.shape, np.uint8), corrected_by())
    with pytest.raises(InputError, match="found sub-ada_hemi-L without skeleton labels"):
        built(empty)


# What was looked at


def test_a_case_that_is_done_may_be_learnt_from_everywhere(case):
    assert built(case).looked.all()
    looked = Looked(x=((3, 4),))
    done = corrected_by().model_copy(update={"looked_at": looked})
    assert built(case.with_labels(CORRECTED, labels_of(case), done)).looked.all()


@pytest.mark.parametrize("hemisphere", [L, R])
def test_of_a_partly_done_case_the_slices_that_were_looked_at_and_the_padding_count(hemisphere):
    case = phantom(hemisphere)
    looked = Looked(x=((40, 42),), y=((90, 90),), z=((0, 10), (50, 60)))
    found = built(partly(case, looked))
    _, grid = on_grid(case.tissue, hemisphere)
    expected = grid.pull(looked.mask(case.tissue.shape), order=0) > 0
    np.testing.assert_array_equal(inside(found, found.looked)[0, 0].numpy(), expected)
    assert 0.1 < expected.mean() < 0.5
    outside = torch.ones_like(found.looked)
    inside(found, outside)[...] = False
    assert found.looked[outside].all()


def test_what_was_looked_at_on_both_sides_is_the_same_through_a_mirror():
    left = phantom(L)
    n = left.tissue.shape[0]
    one = built(partly(left, Looked(x=((50, 55),), y=((80, 84),))))
    two = built(partly(phantom(R), Looked(x=((n - 56, n - 51),), y=((80, 84),))))
    assert torch.equal(one.looked, two.looked)


def test_on_a_finer_grid_as_much_of_the_hemisphere_was_looked_at():
    finer = phantom(L, spacing_mm=0.7)
    mm = (60, 100)
    shares = []
    for case, size in ((phantom(L), 1.0), (finer, 0.7)):
        found = built(partly(case, Looked(y=(tuple(round(v / size) for v in mm),))))
        shares.append(float(inside(found, found.looked).float().mean()))
    assert shares[0] == pytest.approx(shares[1], abs=0.02)


def test_the_class_of_a_partly_done_case_is_unknown(case):
    assert built(partly(case, Looked(x=((40, 60),)))).class_index.tolist() == [UNKNOWN_CLASS]


@pytest.mark.parametrize(
    ("looked", "found"),
    [
        (None, "no record of what was looked at"),
        (Looked(), "no slice of it looked at"),
        (Looked(y=((1, 2),)), "slices that do not touch the hemisphere"),
    ],
)
def test_a_partly_done_case_of_which_nobody_knows_the_part_is_a_sentence(case, looked, found):
    with pytest.raises(InputError, match=f"found sub-ada_hemi-L partly done, and {found}, expected"):
        built(partly(case, looked))


# What was changed


def before_and_after(case, role=PREDICTED):
    """A case whose correction adds one voxel of skeleton and takes the PCS of one plane away; and where."""
    old, new = labels_of(case).copy(), labels_of(case).copy()
    new[30, 100, 60] = 1 - new[30, 100, 60]
    y = int(np.median(np.argwhere(old == 2)[:, 1]))
    new[:, y][new[:, y] == 2] = 1
    changed = (old >= 1) != (new >= 1)
    changed |= (old == 2) != (new == 2)
    made = case.with_labels(role, old, predicted_by()).with_labels(CORRECTED, new, corrected_by())
    return made, changed


@pytest.mark.parametrize("role", [PREDICTED, PROPOSED])
def test_changed_is_where_a_correction_differs_from_what_it_began_from(case, role):
    corrected, changed = before_and_after(case, role)
    found = built(corrected)
    _, grid = on_grid(case.tissue, L)
    np.testing.assert_array_equal(inside(found, found.changed), grid.pull(changed) > 0)
    assert found.changed.sum() == changed.sum() > 5


def test_a_prediction_goes_before_a_proposal(case):
    corrected, _ = before_and_after(case)
    proposed = corrected.with_labels(PROPOSED, np.zeros_like(labels_of(case)), predicted_by())
    np.testing.assert_array_equal(built(proposed).changed, built(corrected).changed)


def test_kinds_of_skeleton_that_the_network_does_not_tell_apart_are_no_change(case):
    old, new = labels_of(case), labels_of(case).copy()
    new[new == 1] = 3
    same = case.with_labels(PREDICTED, old, predicted_by()).with_labels(CORRECTED, new, corrected_by())
    assert not built(same).changed.any()


def test_not_a_single_changed_voxel_is_lost_between_two_voxels_of_the_networks_grid():
    case = phantom(L, spacing_mm=0.5)
    spots = np.argwhere(case.tissue.data > 0)[::20011]
    new = labels_of(case).copy()
    new[tuple(spots.T)] = (new[tuple(spots.T)] == 0).astype(np.uint8)
    made = case.with_labels(PREDICTED, labels_of(case), predicted_by()).with_labels(CORRECTED, new, corrected_by())
    assert built(made).changed.sum() == len(spots) > 50


def test_without_anything_to_compare_with_the_pcs_is_what_was_drawn(case):
    drawn = built(case.with_labels(CORRECTED, labels_of(case), corrected_by()))
    np.testing.assert_array_equal(drawn.changed, drawn.targets[0, 1].numpy() > 0)
    reference = built(case.with_labels(PREDICTED, np.zeros_like(labels_of(case)), predicted_by()))
    np.testing.assert_array_equal(reference.changed, drawn.changed)


def test_a_change_where_nobody_looked_does_not_count(case):
    corrected, changed = before_and_after(case)
    y = int(np.argwhere(changed)[0, 1])
    provenance = corrected_by().model_copy(update={"partly_done": True, "looked_at": Looked(y=((y, y),))})
    found = built(corrected.with_labels(CORRECTED, labels_of(corrected), provenance))
    assert found.changed.sum() == changed[:, y].sum() > 0
    assert not (found.changed & ~found.looked[0, 0].numpy()).any()


# A real hemisphere


def test_a_real_hemisphere_is_all_there(real_data):
    from napari_pcs.anatomy.sources.tissue_map import case_of
    from napari_pcs.volume import Volume

    path = next(iter(sorted((real_data / "hemispheres").glob("*_hemi-R_gw.nii.gz"))), None)
    if path is None:
        pytest.skip("no prepared hemispheres among the real data")
    case, _ = case_of(Volume.read(path), CaseKey("real", "", R))
    labels = (case.tissue.data == 1).astype(np.uint8)
    found = built(case.with_labels(CORRECTED, labels, corrected_by()), position=True)
    assert found.targets[0, 0].sum() == labels.sum()
    assert torch.count_nonzero(found.image[0, 0]) == np.count_nonzero(case.tissue.data)
