import gzip
from dataclasses import FrozenInstanceError

import nibabel as nib
import numpy as np
import pytest
from builders import affine_of, asymmetric, label_map
from scipy.spatial.transform import Rotation

from napari_pcs.errors import InputError, SessionError
from napari_pcs.volume import Volume, check_same_grid

GEOMETRY = (
    *("dim", "pixdim", "xyzt_units", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
SUFFIXES = ("nii", "nii.gz")
FORM_CODES = {"sform only": (1, 0), "qform only": (0, 2), "both": (4, 1), "both alike": (1, 1)}


def assert_same_geometry(path, other):
    one, two = nib.load(path), nib.load(other)
    for field in GEOMETRY:
        np.testing.assert_array_equal(one.header[field], two.header[field], err_msg=field)
    np.testing.assert_array_equal(one.affine, two.affine)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("codes", FORM_CODES.values(), ids=FORM_CODES)
def test_a_file_written_back_has_the_geometry_and_values_of_its_source(
    write_nifti, tmp_path, orientation, codes, suffix
):
    affine = affine_of(orientation, (0.7, 1.0, 1.2))
    qform = affine @ np.diag([1, 1, 1, 1]) + np.array([[0, 0, 0, 2.5]] * 3 + [[0] * 4]) if all(codes) else None
    source = write_nifti(f"source.{suffix}", affine=affine, codes=codes, qform=qform)
    written = tmp_path / f"out.{suffix}"

    Volume.read(source).write(written)

    assert_same_geometry(source, written)
    np.testing.assert_array_equal(np.asarray(nib.load(written).dataobj), np.asarray(nib.load(source).dataobj))
    assert nib.load(written).get_data_dtype() == nib.load(source).get_data_dtype()


@pytest.mark.parametrize("zooms", [(1.0, 1.0, 1.0), (0.7, 1.0, 1.2)], ids=str)
def test_the_affine_of_the_source_is_that_of_its_file(write_nifti, orientation, zooms):
    source = write_nifti(affine=affine_of(orientation, zooms))
    volume, image = Volume.read(source), nib.load(source)
    np.testing.assert_allclose(volume.source_affine, image.affine, atol=1e-5)
    # The same voxel, by its place in the file and in the array.
    value = np.asarray(image.dataobj)[2, 5, 7]
    ((x, y, z),) = np.argwhere((volume.data == value) & (_places(volume, image) < 1e-4))
    assert volume.data[x, y, z] == value


def _places(volume, image):
    """Distance of every voxel of a volume from voxel (2, 5, 7) of the file, in mm."""
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return np.linalg.norm(world - (image.affine @ [2, 5, 7, 1])[:3], axis=-1)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("zooms", [(0.7,) * 3, (1.0,) * 3, (1.2,) * 3, (0.5, 1.3, 2.0)], ids=str)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_type_and_voxel_size_survive_the_round_trip(write_nifti, tmp_path, dtype, zooms, suffix):
    data = asymmetric(dtype=dtype) + (dtype(0.125) if np.issubdtype(dtype, np.floating) else dtype(0))
    source = write_nifti(f"source.{suffix}", data, affine=affine_of("PIR", zooms), codes=(2, 1))
    volume = Volume.read(source)
    volume.write(tmp_path / f"out.{suffix}")
    written = nib.load(tmp_path / f"out.{suffix}")

    assert written.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)
    assert_same_geometry(source, tmp_path / f"out.{suffix}")
    # PIR: array axes run along y, z, x.
    np.testing.assert_allclose(volume.spacing, [zooms[2], zooms[0], zooms[1]], rtol=1e-6)


def test_the_array_in_memory_is_nibabels_closest_canonical(write_nifti, orientation):
    source = write_nifti(affine=affine_of(orientation, (0.7, 1.0, 1.2)))
    volume, canonical = Volume.read(source), nib.as_closest_canonical(nib.load(source))

    np.testing.assert_array_equal(volume.data, np.asarray(canonical.dataobj))
    np.testing.assert_allclose(volume.affine, canonical.affine, atol=1e-9)
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("codes", FORM_CODES.values(), ids=FORM_CODES)
def test_labels_drawn_on_an_image_overlay_it_in_any_viewer(write_nifti, tmp_path, orientation, codes, suffix):
    source = write_nifti(f"source.{suffix}", affine=affine_of(orientation, (0.7, 1.0, 1.2)), codes=codes)
    volume = Volume.read(source)
    labels = label_map(volume.shape)

    volume.with_data(labels).write(tmp_path / f"labels.{suffix}")

    written = nib.load(tmp_path / f"labels.{suffix}")
    assert_same_geometry(source, tmp_path / f"labels.{suffix}")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(written).dataobj), labels)


def test_a_marked_voxel_stays_at_its_place_in_the_world(write_nifti, tmp_path, orientation):
    volume = Volume.read(write_nifti(affine=affine_of(orientation, (0.7, 1.0, 1.2))))
    labels = np.zeros(volume.shape, np.uint8)
    voxel = tuple(n - 2 for n in volume.shape)
    labels[voxel] = 2
    volume.with_data(labels).write(tmp_path / "labels.nii.gz")
    written = nib.load(tmp_path / "labels.nii.gz")
    (found,) = np.argwhere(np.asarray(written.dataobj) == 2)

    expected = volume.affine @ [*voxel, 1]
    np.testing.assert_allclose(written.affine @ [*found, 1], expected, atol=1e-5)


def test_scaled_data_are_read_scaled_and_labels_on_them_are_not(write_nifti, tmp_path, orientation):
    stored = asymmetric()
    source = write_nifti("scaled.nii", stored, affine=affine_of(orientation))
    raw = bytearray(source.read_bytes())
    raw[112:120] = np.array([0.25, -3.0], "<f4").tobytes()  # scl_slope and scl_inter
    source.write_bytes(bytes(raw))
    volume = Volume.read(source)
    volume.write(tmp_path / "image.nii")
    labels = label_map(volume.shape)
    volume.with_data(labels).write(tmp_path / "labels.nii")

    np.testing.assert_array_equal(nib.load(tmp_path / "image.nii").get_fdata(), 0.25 * stored - 3.0)
    back = Volume.read(tmp_path / "labels.nii")
    assert back.data.dtype == np.uint8
    np.testing.assert_array_equal(back.data, labels)
    assert_same_geometry(source, tmp_path / "labels.nii")
    assert_same_geometry(source, tmp_path / "image.nii")


def test_a_file_without_any_form_keeps_the_affine_that_nibabel_gives_it(tmp_path, write_nifti):
    source = write_nifti("bare.nii", codes=(0, 0))
    assert nib.load(source).header["sform_code"] == nib.load(source).header["qform_code"] == 0
    Volume.read(source).write(tmp_path / "out.nii")

    np.testing.assert_allclose(nib.load(tmp_path / "out.nii").affine, nib.load(source).affine, atol=1e-6)
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii").get_fdata(), nib.load(source).get_fdata())


@pytest.mark.parametrize("kind", [nib.Nifti2Image, nib.Nifti1Pair, nib.MGHImage])
def test_other_containers_come_back_as_nifti_in_the_same_place(tmp_path, kind):
    name = {nib.Nifti2Image: "s.nii", nib.Nifti1Pair: "s.img", nib.MGHImage: "s.mgz"}[kind]
    data, affine = asymmetric(dtype=np.float32), affine_of("PIR", (0.7, 1.0, 1.2))
    nib.save(kind(data, affine), tmp_path / name)
    Volume.read(tmp_path / name).write(tmp_path / "out.nii.gz")
    written = nib.load(tmp_path / "out.nii.gz")

    np.testing.assert_allclose(written.affine, nib.load(tmp_path / name).affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)


def test_a_trailing_axis_of_length_one_is_dropped(write_nifti):
    data = asymmetric()
    volume = Volume.read(write_nifti("s.nii", data[..., None]))
    np.testing.assert_array_equal(volume.data, data)


def test_probabilities_are_written_with_the_channel_last_on_the_same_grid(write_nifti, tmp_path, orientation):
    source = write_nifti("s.nii", affine=affine_of(orientation, (0.7, 1.0, 1.2)))
    volume = Volume.read(source)
    channels = np.random.default_rng(0).random((*volume.shape, 2)).astype(np.float32)
    volume.with_data(channels).write(tmp_path / "p.nii.gz")
    written = nib.load(tmp_path / "p.nii.gz")

    assert written.shape == (*nib.load(source).shape, 2)
    np.testing.assert_array_equal(written.affine, nib.load(source).affine)
    for channel in range(2):
        one = nib.Nifti1Image(np.asarray(written.dataobj)[..., channel], written.affine)
        np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(one).dataobj), channels[..., channel])


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", ">i2", ">f4", "f8"])
@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_file_is_byte_for_byte_what_nibabel_writes(tmp_path, write_nifti, orientation, dtype, channels):
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    source = nib.Nifti1Image(np.ones((7, 8, 9), dtype), affine_of(orientation, (0.7, 1.0, 1.2)), header)
    nib.save(source, tmp_path / "source.nii")
    volume = Volume.read(tmp_path / "source.nii")
    data = np.random.default_rng(0).integers(0, 99, (*volume.shape, *channels)).astype(volume.data.dtype)
    volume = volume.with_data(data)
    expected = volume.to_source().to_bytes()
    assert volume.encode("a.nii") == expected
    assert gzip.decompress(volume.encode("a.nii.gz")) == expected


def test_equal_volumes_are_written_as_equal_bytes(write_nifti, tmp_path):
    volume = Volume.read(write_nifti())
    for name in ("a.nii.gz", "b.nii.gz"):
        volume.write(tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_volume_is_frozen_and_with_data_leaves_it_as_it_was(write_nifti):
    volume = Volume.read(write_nifti())
    before = volume.data.copy()
    other = volume.with_data(np.zeros(volume.shape, np.uint8))
    np.testing.assert_array_equal(volume.data, before)
    assert other.path is None
    with pytest.raises(FrozenInstanceError):
        volume.data = other.data


def test_with_data_refuses_another_shape(write_nifti):
    with pytest.raises(InputError, match=r"\(7, 8, 8\).*\(7, 8, 9\)"):
        Volume.read(write_nifti()).with_data(np.zeros((7, 8, 8), np.uint8))


def test_an_array_without_header_gets_one_that_carries_its_affine(tmp_path, orientation):
    data, affine = asymmetric(), affine_of(orientation, (0.7, 1.0, 1.2))
    Volume.from_array(data, affine).write(tmp_path / "s.nii.gz")
    written = nib.load(tmp_path / "s.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)
    np.testing.assert_allclose(written.header.get_zooms(), (0.7, 1.0, 1.2), rtol=1e-5)


# What is refused


def _raw(path, content):
    path.write_bytes(content)


def _image(path, data, affine=None):
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)


def _patched(path, offset, value):
    """An ordinary file with some bytes of its header replaced."""
    _image(path, asymmetric())
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(value)] = value
    path.write_bytes(bytes(raw))


def _promising(path, side):
    """A header of `side` cubed voxels with no data behind it."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((side,) * 3)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    path.write_bytes(header.binaryblock + b"\0" * 4)


def _with_value(value):
    data = asymmetric(dtype=np.float32)
    data[2, 3, 4] = value
    return data


def _noise():
    return np.random.default_rng(0).integers(0, 30000, (20, 20, 20)).astype(np.int16)


def _cut(path, keep):
    _image(path, _noise())
    content = path.read_bytes()
    path.write_bytes(content[: keep(len(content))])


def _flipped(path, where):
    _image(path, _noise())
    content = bytearray(path.read_bytes())
    content[where(len(content))] ^= 0xFF
    path.write_bytes(bytes(content))


def _colours(path):
    data = np.zeros((5, 5, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    data["R"] = 3
    _image(path, data)


def _two_equal_axes(path):
    affine = np.eye(4)
    affine[:, 1] = affine[:, 0]
    image = nib.Nifti1Image(asymmetric(), None)
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    nib.save(image, path)


def _in_units(path, unit, size):
    image = nib.Nifti1Image(asymmetric(), np.diag([size, size, size, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


MM = "0.1 to 5.0 mm"
REFUSED = {
    "text named nii.gz": ("a.nii.gz", lambda p: _raw(p, b"hello world"), "not an image", "NIfTI"),
    "text named nii": ("a.nii", lambda p: _raw(p, b"hello world" * 60), "not an image", "NIfTI"),
    "gzipped text": ("a.nii.gz", lambda p: _raw(p, gzip.compress(b"no image" * 90)), "not an image", "NIfTI"),
    "picture": ("a.png", lambda p: _raw(p, b"\x89PNG\r\n\x1a\n" + b"0" * 500), "not an image", "NIfTI"),
    "text named mgh": ("a.mgh", lambda p: _raw(p, b"nonsense" * 60), "unreadable", "complete image"),
    "0 bytes nii": ("a.nii", lambda p: _raw(p, b""), "Empty file", "NIfTI"),
    "0 bytes nii.gz": ("a.nii.gz", lambda p: _raw(p, b""), "Empty file", "NIfTI"),
    "missing": ("a.nii.gz", lambda _: None, "no such file", "NIfTI"),
    "folder": ("a.nii", lambda p: p.mkdir(), "not an image", "NIfTI"),
    "2-D": ("a.nii", lambda p: _image(p, asymmetric((7, 8))), r"2 dimensions \(shape \(7, 8\)\)", "3-D"),
    "4-D": ("a.nii", lambda p: _image(p, asymmetric((7, 8, 9, 2))), r"4 dimensions \(shape \(7, 8, 9, 2\)\)", "3-D"),
    "NaN": ("a.nii.gz", lambda p: _image(p, _with_value(np.nan)), "1 voxels that are NaN", "finite"),
    "inf": ("a.nii.gz", lambda p: _image(p, _with_value(-np.inf)), "1 voxels that are NaN or inf", "finite"),
    "all 0": ("a.nii.gz", lambda p: _image(p, np.zeros((7, 8, 9), np.uint8)), "0 everywhere", "a hemisphere"),
    "colours": ("a.nii", _colours, "voxels of type", "one real number"),
    "complex": ("a.nii", lambda p: _image(p, asymmetric(dtype=np.complex64)), "complex64", "one real number"),
    "nii cut": ("a.nii", lambda p: _cut(p, lambda n: n // 2), "truncated", "complete image"),
    "gz cut in the header": ("a.nii.gz", lambda p: _cut(p, lambda _: 40), "not an image", "NIfTI"),
    "gz cut in the middle": ("a.nii.gz", lambda p: _cut(p, lambda n: n // 2), "truncated", "complete image"),
    "gz cut at the end": ("a.nii.gz", lambda p: _cut(p, lambda n: n - 3), "truncated", "complete image"),
    "gz with a wrong byte": ("a.nii.gz", lambda p: _flipped(p, lambda n: n // 2), "(CRC|unreadable)", "image"),
    "gz with a wrong checksum": ("a.nii.gz", lambda p: _flipped(p, lambda n: n - 6), "CRC", "image"),
    "10^12 voxels": ("a.nii", lambda p: _promising(p, 10_000), "promises 1e.12 voxels", r"at most 1.34e\+08"),
    "negative size": ("a.nii", lambda p: _patched(p, 42, np.int16(-7).tobytes()), "unreadable", "complete image"),
    "unknown data type": ("a.nii", lambda p: _patched(p, 70, np.int16(9999).tobytes()), "9999", "NIfTI"),
    "unknown unit": ("a.nii", lambda p: _patched(p, 123, b"\x05"), "unreadable", "complete image"),
    "metres": ("a.nii", lambda p: _in_units(p, "meter", 1.0), "units of meter", "millimetres"),
    "micrometres": ("a.nii", lambda p: _in_units(p, "micron", 1.0), "units of micron", "millimetres"),
    "0.001 mm": ("a.nii", lambda p: _image(p, asymmetric(), np.diag([1e-3] * 3 + [1])), "0.001 x 0.001 x 0.001 mm", MM),
    "1000 mm": ("a.nii", lambda p: _image(p, asymmetric(), np.diag([1e3] * 3 + [1])), "1000 x 1000 x 1000 mm", MM),
    "NaN in the affine": ("a.nii", lambda p: _patched(p, 280, np.float32(np.nan).tobytes()), "voxel size of nan", MM),
    "two equal axes": ("a.nii", _two_equal_axes, "axes lie in one plane", "three independent axes"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("name", "make", "found", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_with_a_sentence(tmp_path, name, make, found, expected):
    make(tmp_path / name)
    with pytest.raises(InputError, match=rf"^{name}: found .*{found}[\s\S]*, expected .*{expected}") as caught:
        Volume.read(tmp_path / name)
    assert caught.value.path == tmp_path / name


def test_the_largest_image_that_is_allowed_is_not_refused_for_its_size(tmp_path):
    _promising(tmp_path / "a.nii", 512)
    with pytest.raises(InputError, match="truncated"):
        Volume.read(tmp_path / "a.nii")


def test_an_empty_label_map_is_read_when_it_may_be_empty(tmp_path):
    _image(tmp_path / "a.nii.gz", np.zeros((7, 8, 9), np.uint8))
    volume = Volume.read(tmp_path / "a.nii.gz", may_be_empty=True)
    assert volume.shape == (7, 8, 9)
    assert not volume.data.any()


def test_a_file_without_a_unit_is_taken_as_millimetres(write_nifti):
    volume = Volume.read(write_nifti("a.nii", affine=affine_of("LAS", (0.7, 0.8, 0.9)), unit="unknown"))
    np.testing.assert_allclose(volume.spacing, (0.7, 0.8, 0.9), rtol=1e-6)


def test_writing_below_a_file_is_an_error_of_the_session(write_nifti, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SessionError, match=r"out.nii: could not be written"):
        Volume.read(write_nifti()).write(tmp_path / "file" / "out.nii")
    assert (tmp_path / "file").read_text() == "in the way"


# The same grid


def _grid(affine, shape=(60, 60, 60)):
    return Volume.from_array(np.ones(shape, np.uint8), affine)


def test_labels_of_another_shape_are_refused_by_name(write_nifti):
    image = Volume.read(write_nifti("image.nii"))
    labels = Volume.read(write_nifti("labels.nii", asymmetric((7, 8, 10))))
    with pytest.raises(InputError, match=r"labels.nii: found labels of shape \(7, 8, 10\), expected .*\(7, 8, 9\)"):
        check_same_grid(image, labels, "labels")


@pytest.mark.parametrize("axis", range(3))
def test_labels_shifted_along_an_axis_are_refused_with_the_distance(write_nifti, axis):
    shifted = affine_of("RAS")
    shifted[axis, 3] += 3.25
    image = Volume.read(write_nifti("image.nii"))
    labels = Volume.read(write_nifti("labels.nii", affine=shifted))
    with pytest.raises(InputError, match=r"labels.nii: found labels whose corner lies 3.25 mm"):
        check_same_grid(image, labels, "labels")


def test_labels_turned_about_the_diagonal_are_refused_although_two_corners_agree():
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_rotvec(np.radians(10) * np.ones(3) / np.sqrt(3)).as_matrix()
    for corner in ([0, 0, 0, 1], [59, 59, 59, 1]):
        np.testing.assert_allclose(turned @ corner, corner, atol=1e-9)
    with pytest.raises(InputError, match="corner lies"):
        check_same_grid(_grid(np.eye(4)), _grid(turned), "labels")


def test_labels_flipped_from_left_to_right_are_refused():
    flipped = np.diag([-1.0, 1, 1, 1])
    with pytest.raises(InputError, match=r"corner lies 59\.00 mm"):
        check_same_grid(_grid(np.eye(4)), _grid(flipped), "labels")


def test_the_same_grid_stored_in_another_order_is_accepted():
    data = asymmetric((20, 21, 22))
    image = nib.Nifti1Image(data, affine_of("RAS", (0.7, 1.0, 1.2)))
    stored = image.as_reoriented(nib.orientations.axcodes2ornt("PIL"))
    one = Volume.from_array(data, image.affine)
    two = Volume.from_array(np.asarray(stored.dataobj), stored.affine)
    check_same_grid(one, two, "labels")
    np.testing.assert_array_equal(one.data, two.data)


def test_rounding_in_a_header_is_tolerated():
    rounded = np.eye(4) + 1e-5
    rounded[3] = 0, 0, 0, 1
    check_same_grid(_grid(np.eye(4)), _grid(rounded), "labels")
