import numpy as np
import pytest
from skimage.io import imsave

from napari_pcs.data.images import open_images
from napari_pcs.data.sources import open_data
from napari_pcs.errors import InputError

RNG = np.random.default_rng(0)


@pytest.fixture
def put(tmp_path):
    def write(name, pixels):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        imsave(path, pixels, check_contrast=False)
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


GREY = RNG.integers(0, 256, (12, 9)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (12, 9, 3)).astype(np.uint8)


def only(folder, **options):
    source = open_images(folder, **options)
    return source, source.draw(0, (4, 4), np.random.default_rng(0))


@pytest.mark.parametrize("ending", ["png", "tif", "tiff", "PNG"])
def test_grey_bytes_become_one_channel_from_0_to_1(put, folder, ending):
    put(f"a.{ending}", GREY)
    source, patch = only(folder)
    assert source.channels == 1
    assert patch.image.dtype == np.float32
    assert np.array_equal(patch.image, GREY[None] / np.float32(255))
    assert patch.position is None


def test_a_jpeg_is_close_to_what_was_saved(put, folder):
    smooth = np.add.outer(np.arange(32), np.arange(24)).astype(np.uint8) * 4
    put("a.jpg", smooth)
    assert only(folder)[1].image[0] * 255 == pytest.approx(smooth, abs=4)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_own_range(put, folder, ending):
    pixels = RNG.integers(0, 65536, (12, 9)).astype(np.uint16)
    put(f"a.{ending}", pixels)
    assert only(folder)[1].image[0] == pytest.approx(pixels / 65535, abs=1e-6)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colours_become_three_channels_and_transparency_is_dropped(put, folder, ending):
    put(f"a.{ending}", np.dstack([COLOUR, np.full((12, 9), 77, np.uint8)]))
    source, patch = only(folder)
    assert source.channels == 3
    assert np.array_equal(patch.image, np.moveaxis(COLOUR, -1, 0) / np.float32(255))


def test_the_whole_image_is_drawn_whatever_the_size_and_the_generator(put, folder):
    put("a.png", GREY)
    source = open_images(folder)
    images = [source.draw(0, size, np.random.default_rng(n)).image for n, size in enumerate([(2, 2), (500, 300)])]
    assert np.array_equal(*images)


def test_grey_pixels_saved_as_colours_are_grey(put, folder):
    put("a.png", np.dstack([GREY] * 3))
    source, patch = only(folder)
    assert source.channels == 1
    assert np.array_equal(patch.image[0], GREY / np.float32(255))


def test_channels_asked_for_are_made(put, folder):
    put("a.png", COLOUR)
    grey = only(folder, channels=1)[1].image
    by_hand = (COLOUR / 255) @ [0.2125, 0.7154, 0.0721]  # ITU-R BT.709
    assert grey[0] == pytest.approx(by_hand, abs=1e-6)
    put("a.png", GREY)
    assert np.array_equal(only(folder, channels=3)[1].image, np.stack([GREY] * 3) / np.float32(255))


def test_fractions_are_taken_as_they_are_and_anything_beyond_is_refused(put, folder):
    pixels = RNG.random((12, 9)).astype(np.float32)
    put("a.tif", pixels)
    assert np.array_equal(only(folder)[1].image[0], pixels)
    for wrong in (pixels * 2, pixels - 1, np.full_like(pixels, np.nan)):
        put("a.tif", wrong)
        with pytest.raises(InputError, match=r"a\.tif.*fractions from 0 to 1"):
            only(folder)


def test_a_stack_of_pages_is_refused(put, folder):
    put("a.tif", RNG.integers(0, 9, (5, 12, 9)).astype(np.uint8))
    with pytest.raises(InputError, match=r"shape \(5, 12, 9\)"):
        only(folder)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("kept", [0, 5, 0.7])
def test_a_damaged_image_is_an_input_error_that_names_it(put, folder, name, kept):
    path = put(name, RNG.integers(0, 256, (64, 64)).astype(np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        only(folder)


def test_folders_are_labels_and_subjects_are_people(put, folder):
    for name in ("mild/sub-01_a.png", "mild/sub-01_b.png", "none/sub-02/slice.png"):
        put(name, GREY)
    source = open_images(folder)
    assert list(source.names) == ["mild/sub-01_a.png", "mild/sub-01_b.png", "none/sub-02/slice.png"]
    assert list(source.labels) == ["mild", "mild", "sub-02"]
    assert list(source.people) == ["01", "01", "02"]
    assert source.notes == ()


def test_images_that_do_not_say_whose_they_are_count_as_people_of_their_own_and_that_is_said(put, folder):
    for name in ("a/1.png", "b/1.png"):
        put(name, GREY)
    source = open_images(folder)
    assert list(source.people) == ["a/1.png", "b/1.png"]
    assert "both sides of a split" in source.notes[0]


def test_one_image_is_said_to_leave_nothing_to_hold_out(put, folder):
    put("a.png", GREY)
    assert open_images(folder).notes == ("1 image: nothing is held out.",)


def test_the_digest_follows_names_and_sizes_of_images(put, folder):
    path = put("a.png", GREY)
    first = open_images(folder).digest
    path.write_bytes(path.read_bytes() + b"\0")
    second = open_images(folder).digest
    path.rename(folder / "b.png")
    assert len({first, second, open_images(folder).digest}) == 3


def test_a_folder_without_images_or_an_unknown_number_of_channels_is_refused(put, folder):
    with pytest.raises(InputError, match=r"\.png"):
        open_images(folder)
    put("a.png", GREY)
    with pytest.raises(InputError, match="2 channels"):
        open_images(folder, channels=2)


def test_what_a_folder_holds_decides_the_dimensions(put, folder, tmp_path):
    put("a.png", GREY)
    assert open_data(folder).spatial_dims == 2
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "sub-01_hemi-L_gw.nii.gz").touch()
    assert open_data(maps, cache=tmp_path).spatial_dims == 3


def test_a_folder_of_both_is_refused_until_somebody_says_which(put, folder, tmp_path):
    put("deep/a.png", GREY)
    (folder / "sub-01_hemi-L_gw.nii.gz").touch()
    with pytest.raises(InputError, match="volumes and 2-D images"):
        open_data(folder)
    assert [open_data(folder, dims, tmp_path).spatial_dims for dims in (2, 3)] == [2, 3]


def test_a_session_with_pictures_in_it_is_one_of_hemispheres(put, folder, tmp_path):
    put("figures/a.png", GREY)
    (folder / "session.json").write_text("{}")
    (folder / "sub-01_hemi-L_space-orig_desc-gw_dseg.nii.gz").touch()
    assert open_data(folder, cache=tmp_path).spatial_dims == 3


def test_nothing_at_all_is_refused(folder):
    for path in (folder, folder / "missing"):
        with pytest.raises(InputError):
            open_data(path)


def test_real_slices_are_read_as_grey_with_their_folder_as_label(real_data):
    slices = real_data / "slices"
    if not slices.is_dir():
        pytest.skip("no slices among the real data")
    source = open_images(slices)
    assert source.channels == 1
    assert len(set(source.labels)) == 4
    assert source.draw(0, (64, 64), np.random.default_rng(0)).image.shape == (1, 128, 128)
