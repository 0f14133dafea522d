import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from scipy import ndimage

from napari_pcs.data.names import SAMPLES
from napari_pcs.data.phantom import phantom
from napari_pcs.data.samples import mni152, sample
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


@pytest.fixture(scope="module")
def hemispheres():
    return {side: mni152(side) for side in (L, R)}


def world_of(volume, mask):
    voxels = np.argwhere(mask)
    return voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]


@pytest.mark.parametrize(("side", "sign"), [(L, -1), (R, 1)])
def test_each_side_of_the_template_lies_on_its_side_of_the_world(hemispheres, side, sign):
    tissue = hemispheres[side].tissue
    x, y, z = world_of(tissue, tissue.data > 0).T
    assert (sign * x).min() > 0
    # In MNI space a hemisphere spans about 70 mm, -105 to 75 and -45 to 82.
    assert abs(sign * x.max() if sign > 0 else -x.min()) == pytest.approx(70, abs=6)
    assert (y.min(), y.max()) == pytest.approx((-105, 73), abs=8)
    assert z.max() == pytest.approx(81, abs=6)


@pytest.mark.parametrize("side", [L, R])
def test_the_sample_shows_the_template_at_the_same_world_coordinates(hemispheres, side):
    case = hemispheres[side]
    template = load_mni152_template(resolution=1)
    inside = case.tissue.data > 0
    places = world_of(case.tissue, inside)[::97]
    voxels = np.round((places - template.affine[:3, 3]) / np.diag(template.affine)[:3]).astype(int)
    np.testing.assert_allclose(
        case.image.data[inside][::97], np.asarray(template.dataobj, dtype=np.float32)[tuple(voxels.T)], rtol=1e-6
    )
    assert case.tissue.spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("side", [L, R])
def test_a_sample_is_one_cerebral_hemisphere_without_the_cerebellum(hemispheres, side):
    tissue = hemispheres[side].tissue
    assert set(np.unique(tissue.data)) == {0, 1, 2}
    labels, _ = ndimage.label(tissue.data > 0)
    assert np.bincount(labels.ravel())[1:].max() > 0.98 * np.count_nonzero(tissue.data)
    sign = -1 if side is L else 1
    for name, place, inside in (
        ("superior frontal gyrus", (20, 35, 40), True),
        ("occipital pole", (12, -98, 2), True),
        ("temporal pole", (40, 12, -34), True),
        ("cerebellum", (25, -65, -40), False),
        ("pons", (5, -28, -32), False),
    ):
        voxel = np.round(np.linalg.solve(tissue.affine, [sign * place[0], *place[1:], 1])[:3]).astype(int)
        around = tissue.data[tuple(slice(max(v - 3, 0), v + 4) for v in voxel)]
        assert (around > 0).any() == inside, name
    litres = np.count_nonzero(tissue.data) * 1e-6
    assert 0.6 < litres < 0.8


def test_the_two_sides_of_the_symmetric_template_are_alike(hemispheres):
    one, two = (np.count_nonzero(hemispheres[side].tissue.data) for side in (L, R))
    assert one == pytest.approx(two, rel=0.02)


@pytest.mark.parametrize(("name", "length"), [("phantom-0mm", 0), ("phantom-30mm", 30), ("phantom-60mm", 60)])
def test_a_phantom_is_found_by_its_name(name, length):
    found, expected = sample(name), phantom(pcs_length_mm=length)
    assert found.key == expected.key
    np.testing.assert_array_equal(found.tissue.data, expected.tissue.data)


@pytest.mark.parametrize("name", ["", "mni152", "phantom-45mm", "MNI152-left"])
def test_an_unknown_sample_is_refused_with_the_names_of_all(name):
    with pytest.raises(InputError, match=f"found a sample named '{name}'") as caught:
        sample(name)
    assert all(known in str(caught.value) for known in SAMPLES)
    assert len(SAMPLES) == 5
