import numpy as np
import pytest
from skimage.io import imread

from napari_pcs.errors import InputError
from napari_pcs.training.pictures import contact_sheet, write_picture

CAPTION, GAP, COLUMN_GAP = 34, 2, 12
NAMES = ("given", "target", "found")


def volumes(samples=2, shape=(64, 64, 64)):
    return np.random.default_rng(0).random((samples, 3, *shape)).astype(np.float32)


def test_the_middle_slices_stand_side_by_side_anterior_right_and_superior_up():
    data = volumes()
    data[:, 1, 0, 0, 0], data[:, 1, 0, 0, 1] = 0, 1  # the target's range is exactly [0, 1]
    sheet = contact_sheet(data, NAMES)
    side = 128
    width = 3 * (3 * side + 2 * GAP) + 2 * COLUMN_GAP
    assert sheet.shape == (CAPTION + 2 * (side + 2 * GAP), width, 3)
    sample, image = 1, 2
    top = CAPTION + (side + 2 * GAP) * sample + GAP
    left = image * (3 * side + 2 * GAP + COLUMN_GAP)
    volume = data[sample, image]
    for plane, (i, j) in enumerate([(1, 2), (0, 2), (0, 1)]):
        begin = left + plane * (side + GAP)
        tile = sheet[top : top + side : 2, begin : begin + side : 2, 0]
        for _ in range(20):
            at = np.random.default_rng(plane).integers(0, 64, 2)
            index = [32, 32, 32]
            index[i], index[j] = at
            # Along the row goes the plane's first axis, and upwards its second.
            assert tile[63 - at[1], at[0]] == round(255 * float(volume[tuple(index)]))


def test_all_images_share_the_scale_of_the_target():
    data = np.zeros((1, 3, 64, 64), dtype=np.float32)
    data[0, 0] = 40.0
    data[0, 1, :32] = 4.0
    data[0, 2] = 1.0
    sheet = contact_sheet(data, NAMES)[CAPTION + GAP : -GAP, :, 0]
    given, target, found = (sheet[:, i * (128 + COLUMN_GAP) :][:, :128] for i in range(3))
    assert np.unique(given).tolist() == [255]
    assert np.unique(target[:64]).tolist() == [255]
    assert np.unique(target[64:]).tolist() == [0]
    assert np.unique(found).tolist() == [64]


def test_what_is_not_a_number_is_seen():
    data = volumes(1, (16, 16))
    data[0, 2, 3, 5] = np.nan
    sheet = contact_sheet(data, NAMES)
    red = np.argwhere((sheet == (255, 0, 80)).all(axis=-1))
    assert len(red) == 8 * 8
    assert red.min(axis=0).tolist() == [CAPTION + GAP + 3 * 8, 2 * (128 + COLUMN_GAP) + 5 * 8]


def test_volumes_of_one_value_only_can_be_drawn():
    assert contact_sheet(np.full((1, 3, 8, 8, 8), 2.0), NAMES)[CAPTION + GAP, 0, 0] == 0


def test_sheet_and_volumes_are_written_and_the_volumes_keep_their_values(tmp_path):
    data = volumes(shape=(20, 30, 10))
    data[0, 0, 0, 0, 0] = 1e9
    sheet, array = write_picture(data, NAMES, tmp_path / "pictures" / "epoch-0010.png")
    assert (sheet.name, array.name) == ("epoch-0010.png", "epoch-0010.npy")
    np.testing.assert_array_equal(imread(sheet), contact_sheet(data, NAMES))
    stored = np.load(array)
    assert stored.dtype == np.float16
    assert np.isfinite(stored).all()
    np.testing.assert_allclose(stored[1], data[1], atol=5e-4)


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 2, 8, 8, 8), (2, 3, 8, 8, 8, 1)])
def test_an_array_with_other_axes_is_refused(tmp_path, shape):
    with pytest.raises(InputError, match=r"expected \(sample, 3, x, y, z\)"):
        write_picture(np.zeros(shape), NAMES, tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []
