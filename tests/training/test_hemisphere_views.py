from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import corrected_by
from scipy import ndimage

from napari_pcs.case import LabelRole
from napari_pcs.data.augment import Augmentation3D
from napari_pcs.data.phantom import phantom
from napari_pcs.looked import Looked
from napari_pcs.training.examples import build_example
from napari_pcs.training.views import VIEW, view_of

STILL = Augmentation3D(rotation_deg=0, scaling=0, ribbon=0, blur_mm=0, grey=0, contrast=0, gain=0, noise=0, blocks=0)
MOVING = STILL.model_copy(update={"rotation_deg": VIEW.rotation_deg, "scaling": VIEW.scaling})
TENSORS = ("image", "targets", "looked", "class_index")
CUBE = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def example():
    return build_example(phantom(), position=True, multiple=32)


@pytest.fixture(scope="module")
def views(example):
    return [view_of(example, number, seed=5, settings=MOVING) for number in range(1, 7)]


def same(one, two):
    return (
        all(torch.equal(getattr(one, name), getattr(two, name)) for name in TENSORS)
        and np.array_equal(one.changed, two.changed)
        and (one.box, one.origin) == (two.box, two.origin)
    )


def position_of(example, mask):
    """Mean position of the voxels of a mask."""
    return example.image[0, 1:].numpy()[:, mask].mean(axis=1)


def inner(of, array):
    """Cut the padding off."""
    return array[..., *(slice(n) for n in of.box)]


def stretch(view, example):
    """How many times as large as before a volume is in a view, by what the position channels say."""

    def jacobian(of):
        block = of.image[0, 1:].numpy()[:, 20:24, 40:44, 40:44].astype(float)
        return np.linalg.det([[np.diff(c, axis=axis).mean() for axis in range(3)] for c in block])

    return jacobian(example) / jacobian(view)


def test_number_0_is_the_example_as_it_is(example):
    assert view_of(example, 0, seed=3) is example


def test_a_view_that_nothing_moves_or_changes_is_the_example(example):
    found = view_of(example, 1, seed=0, settings=STILL)
    np.testing.assert_allclose(found.image, example.image, atol=1e-6)
    assert same(replace(found, image=example.image), example)


def test_a_view_follows_from_name_number_and_seed_alone(example, views):
    assert same(view_of(example, 2, seed=5, settings=MOVING), views[1])
    others = [
        view_of(example, 2, seed=6, settings=MOVING),
        view_of(example, 3, seed=5, settings=MOVING),
        view_of(replace(example, name="other"), 2, seed=5, settings=MOVING),
    ]
    assert not any(torch.equal(other.image, views[1].image) for other in others)


def test_an_example_is_left_as_it_was(example):
    before = {name: getattr(example, name).clone() for name in TENSORS}
    view_of(example, 1, seed=0)
    assert all(torch.equal(getattr(example, name), value) for name, value in before.items())


def test_shapes_and_types_stay_and_the_padding_is_empty(example):
    for found in (view_of(example, number, seed=1) for number in (1, 2)):
        for name in TENSORS:
            assert getattr(found, name).shape == getattr(example, name).shape
            assert getattr(found, name).dtype == getattr(example, name).dtype
        assert found.changed.shape == example.changed.shape
        assert found.name == example.name
        own = (..., *(slice(n) for n in found.box))
        for tensor in (found.image, found.targets):
            assert torch.count_nonzero(tensor) == torch.count_nonzero(tensor[own])
        assert found.looked.all()
        assert torch.equal(found.class_index, example.class_index)


def test_fluid_stays_0_and_nothing_is_cut_out(example):
    found = view_of(example, 1, seed=2, settings=VIEW.model_copy(update={"blocks": 20, "block_share": 0.5}))
    plain = view_of(example, 1, seed=2, settings=VIEW)
    assert torch.equal(found.image, plain.image)
    tissue = found.image[0, 0].numpy()
    assert tissue.min() >= 0
    assert tissue.max() <= 1
    assert (tissue == 0).mean() > 0.2


def test_anatomy_keeps_its_position(example, views):
    where = example.targets[0].numpy() > 0
    for view in views:
        moved = view.targets[0].numpy() > 0
        for before, after in zip(where, moved, strict=True):
            # A voxel in units of 80 mm.
            np.testing.assert_allclose(position_of(view, after), position_of(example, before), atol=1 / 80)


def test_position_is_0_at_the_origin_and_linear_everywhere_in_the_box(example, views):
    for view in views:
        own = view.image[0, 1:][(..., *(slice(n) for n in view.box))].numpy()
        at_origin = np.round(view.origin).astype(int)
        assert np.abs(own[:, *at_origin]).max() < 1.1 * 0.5 * np.sqrt(3) / 80
        for axis in (1, 2, 3):
            assert np.abs(np.diff(own, n=2, axis=axis)).max() < 1e-6


def test_left_stays_left_and_the_turn_is_small(example, views):
    for view in views:
        block = view.image[0, 1:].numpy()[:, 20:24, 40:44, 40:44].astype(float)
        turn = np.array([[np.diff(c, axis=axis).mean() for axis in range(3)] for c in block])
        before = np.diag([-1, 1, 1]) / (80 * phantom_scale(example))
        largest = np.sin(np.radians(VIEW.rotation_deg)) * 1.05 + VIEW.scaling
        assert np.abs(turn @ np.linalg.inv(before) - np.eye(3)).max() < largest


def phantom_scale(example):
    return 1 / (80 * float(example.image[0, 2, 0, 1, 0] - example.image[0, 2, 0, 0, 0]))


def test_sheets_stay_one_voxel_thick_in_as_many_pieces_and_as_large(example, views):
    before = example.targets[0].numpy() > 0
    for view in views:
        after = view.targets[0].numpy() > 0
        assert np.all(after[1] <= after[0])
        for one, two in zip(before, after, strict=True):
            assert 0.9 < two.sum() / one.sum() / stretch(view, example) < 1.1
            assert 0.9 < two.sum() / one.sum() < 1.1
            assert ndimage.label(two, CUBE)[1] == ndimage.label(one, CUBE)[1]
            # One voxel thick: hardly any voxel is further than one from what is not sheet.
            assert (ndimage.distance_transform_edt(two) > 1).mean() < 0.02


def test_no_labelled_voxel_is_lost(example, views):
    """As many positions as before are found again within a voxel's diagonal."""
    from scipy.spatial import cKDTree

    for view in views[:3]:
        old, new = (of.image[0, 1:].numpy()[:, of.targets[0, 1].numpy() > 0].T for of in (example, view))
        assert cKDTree(new).query(old)[0].max() * 80 < 0.9
        assert cKDTree(old).query(new)[0].max() * 80 < 0.9


def test_labels_move_with_the_tissue(example, views):
    """The phantom's sheets lie in fluid, and fluid in the hemisphere is where they are."""
    for view in views:
        tissue, sheets = view.image[0, 0].numpy(), view.targets[0, 0].numpy() > 0
        assert tissue[sheets].mean() < 0.2
        # Two voxels aside they would lie in grey matter.
        assert tissue[np.roll(sheets, 2, axis=(1, 2))].mean() > 0.35


def test_nothing_of_a_hemisphere_is_lost_where_there_is_room(example, views):
    total = example.image[0, 0].double().sum()
    for view in views:
        assert float(view.image[0, 0].double().sum() / total) == pytest.approx(stretch(view, example), rel=0.01)
        used = [np.flatnonzero((view.image[0, 0] > 0).numpy().any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        assert all(u[0] <= 1 for u in used)
        assert all(n - 2 <= u[-1] < n for u, n in zip(used, view.box, strict=True))


def test_where_there_is_no_room_the_ends_far_from_the_pcs_are_cut_off():
    tight = build_example(phantom(), position=True, multiple=1)
    assert tight.box == tight.image.shape[2:]
    cut = 0
    for number in range(1, 7):
        view = view_of(tight, number, seed=5, settings=MOVING)
        assert view.box <= tight.box
        tissue = view.image[0, 0].numpy() > 0
        cut += sum(bool(tissue.take(0, axis=axis).sum() > 30) for axis in range(3))
        # The medial, frontal and upper ends are all there: no more than their outermost layer touches the end.
        assert view.targets[0, 1].sum() > 0.9 * tight.targets[0, 1].sum()
        origin = np.array(view.origin)
        assert np.all(origin < tight.box)
    assert cut


def test_what_was_looked_at_and_what_was_changed_move_along():
    case = phantom()
    labels = case.labels[LabelRole.REFERENCE].data
    y = int(np.median(np.argwhere(labels == 2)[:, 1]))
    provenance = corrected_by().model_copy(update={"partly_done": True, "looked_at": Looked(y=((y - 10, y + 5),))})
    partly = build_example(case.with_labels(LabelRole.CORRECTED, labels, provenance), position=True, multiple=32)
    y0, y1 = np.flatnonzero(inner(partly, partly.looked[0, 0].numpy()).all(axis=(0, 2)))[[0, -1]]
    per_voxel = 1 / (80 * phantom_scale(partly))
    anterior = [(y - partly.origin[1]) * per_voxel for y in (y0 - 0.5, y1 + 0.5)]
    ends = [inner(partly, partly.image[0, 1:].numpy()).reshape(3, -1)[:, n] for n in (0, -1)]
    for number in (1, 2, 3):
        view = view_of(partly, number, seed=5, settings=MOVING)
        position = inner(view, view.image[0, 1:].numpy())
        # Only what was in the hemisphere's box before: beyond it there was padding.
        known = np.all([(p >= min(e)) & (p <= max(e)) for p, e in zip(position, np.array(ends).T, strict=True)], axis=0)
        expected = (position[1] >= anterior[0]) & (position[1] <= anterior[1])
        found = inner(view, view.looked[0, 0].numpy())
        assert (found != expected)[known].mean() < 1e-4
        assert 0.05 < found[known].mean() < 0.3
        changed = inner(view, view.changed)
        assert np.all(inner(view, view.targets[0, 1].numpy())[changed])
        assert changed.sum() == pytest.approx(partly.changed.sum(), rel=0.15)
        assert np.all(position[1][changed] > anterior[0] - per_voxel)
        assert np.all(position[1][changed] < anterior[1] + per_voxel)


def test_without_position_channels_the_rest_is_the_same(example):
    plain = replace(example, image=example.image[:, :1])
    one, two = (view_of(of, 1, seed=5) for of in (plain, example))
    assert one.image.shape[1] == 1
    assert torch.equal(one.image, two.image[:, :1])
    assert torch.equal(one.targets, two.targets)
