"""A 3-D image in memory: an array in RAS order, with all that is needed to write beside the original.

Arrays are held in closest-canonical order (x to the right, y anterior, z superior), because a
viewer cannot show permuted axes. The source's orientation and header are kept, so that what is
written has the shape, affine, voxel sizes, units and sform/qform codes of what was read.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError, ImageDataError

from napari_pcs.errors import InputError
from napari_pcs.files import write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Volume", "check_same_grid"]

MAX_VOXELS = 512**3
"""Larger than any head: 0.4 mm isotropic."""
PLAUSIBLE_SPACING_MM = (0.1, 5.0)
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_AFFINE_TOLERANCE_MM = 1e-3
_FLAT = 1e-3
_GZIP_LEVEL = 3
"""Level 6 makes probabilities a fifth smaller and takes more than twice as long."""
_GZIP_FORMAT = 31
"""zlib's code for a window of 32 kB with a gzip header."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on its own grid, in RAS order.

    Attributes
    ----------
    data
        Array, axes (x, y, z) in closest-canonical RAS order.
    affine
        (4, 4): voxel index of `data` to world millimetres.
    header
        NIfTI header of the source; the grid is written back from it.
    orientation
        (3, 2) nibabel orientation of the source's axes.
    path
        File it was read from, if any.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    header: nib.Nifti1Header
    orientation: NDArray[np.float64]
    path: Path | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        return self.data.shape

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along x, y, z in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def source_affine(self) -> NDArray[np.float64]:
        """(4, 4): voxel index of the source, in its own axis order, to world millimetres."""
        shape = tuple(int(n) for n in np.asarray(self.shape)[self.orientation[:, 0].astype(int)])
        to_source = nib.orientations.inv_ornt_aff(self.orientation, shape)
        return np.asarray(self.affine @ np.linalg.inv(to_source))

    @classmethod
    def read(cls, path: Path | str, *, may_be_empty: bool = False) -> Volume:
        """Read a NIfTI or MGH file.

        Parameters
        ----------
        path
            The file.
        may_be_empty
            Accept an image that is 0 everywhere, as a label map may be.

        Raises
        ------
        InputError
            If it is not such a file, is truncated, not 3-D, empty, too large, holds NaN, or its
            voxel size is not in millimetres.
        """
        path = Path(path)
        try:
            image = nib.load(path)
            _check_header(image)
            data = np.asarray(image.dataobj).reshape(image.shape[:3])
            _check_gzip(path)
        except InputError as error:
            raise error.at(path) from None
        except FileNotFoundError:
            raise InputError(found="no such file", expected="a NIfTI or MGH image", path=path) from None
        except (ImageFileError, HeaderDataError, ImageDataError, gzip.BadGzipFile) as error:
            raise InputError(
                found=f"a file that is not an image ({error})",
                expected="a NIfTI (.nii, .nii.gz) or MGH (.mgz) image",
                path=path,
            ) from error
        except (EOFError, KeyError, OSError, OverflowError, ValueError, zlib.error) as error:
            raise InputError(
                found=f"an unreadable or truncated file ({error})",
                expected="a complete image",
                advice="Copy it again.",
                path=path,
            ) from error
        volume = cls.from_array(
            data, image.affine, header=nib.Nifti1Header.from_header(image.header, check=False), path=path
        )
        try:
            _check_values(volume.data, may_be_empty=may_be_empty)
        except InputError as error:
            raise error.at(path) from None
        return volume

    @classmethod
    def from_array(
        cls,
        data: NDArray[Any],
        affine: NDArray[np.float64],
        *,
        header: nib.Nifti1Header | None = None,
        path: Path | None = None,
    ) -> Volume:
        """Bring an array in any orientation to RAS order, remembering where it came from."""
        if header is None or not (header["sform_code"] or header["qform_code"]):
            header = nib.Nifti1Image(np.zeros(data.shape, np.uint8), affine).header if header is None else header.copy()
            header.set_sform(affine, code="scanner")
        orientation = io_orientation(affine)
        canonical = apply_orientation(data.astype(data.dtype.newbyteorder("="), copy=False), orientation)
        to_source = nib.orientations.inv_ornt_aff(orientation, data.shape)
        return cls(np.ascontiguousarray(canonical), affine @ to_source, header, orientation, path)

    def with_data(self, data: NDArray[Any]) -> Volume:
        """Return another array on the same grid.

        Raises
        ------
        InputError
            If the shape differs.
        """
        if data.shape[:3] != self.shape:
            raise InputError(found=f"an array of shape {data.shape}", expected=f"the image's shape {self.shape}")
        return replace(self, data=data, path=None)

    def to_source(self) -> nib.Nifti1Image:
        """Return the image in the source's axis order, with the source's geometry."""
        back = ornt_transform(_RAS, self.orientation)
        data = apply_orientation(self.data, back)
        header = self.header.copy()
        header.set_data_dtype(self.data.dtype)
        header.set_data_shape(data.shape)
        header["scl_slope"], header["scl_inter"] = np.nan, np.nan
        header["cal_min"], header["cal_max"] = 0, 0
        return nib.Nifti1Image(data, None, header)

    def encode(self, path: Path | str) -> bytes:
        """Return the content of a NIfTI file on the source's grid; gzip if the name ends in .gz."""
        image = self.to_source()
        head, voxels = _header_bytes(image), _file_order(image)
        if Path(path).suffix != ".gz":
            return head + voxels.tobytes()
        packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
        return packer.compress(head) + packer.compress(voxels.data) + packer.flush()

    def write(self, path: Path | str) -> None:
        """Write atomically as NIfTI on the source's grid.

        Raises
        ------
        SessionError
            If the folder is read-only or the disk is full.
        """
        write_bytes(Path(path), self.encode(path))


def check_same_grid(image: Volume, other: Volume, name: str) -> None:
    """Require that another volume lies on the image's grid.

    Raises
    ------
    InputError
        If shape or affine differ; `name` says what the other volume is.
    """
    advice = "Resample it to the image, or choose the image it was drawn on."
    if image.shape != other.shape:
        raise InputError(
            found=f"{name} of shape {other.shape}",
            expected=f"the image's shape {image.shape}",
            advice=advice,
            path=other.path,
        )
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in image.shape))], dtype=float).T
    apart = float(np.abs((image.affine - other.affine) @ corners).max())
    if apart > _AFFINE_TOLERANCE_MM * max(image.shape):
        raise InputError(
            found=f"{name} whose corner lies {apart:.2f} mm from the image's",
            expected="the image's affine",
            advice=advice,
            path=other.path,
        )


def _header_bytes(image: nib.Nifti1Image) -> bytes:
    """Return what stands before the voxels in a file of an image."""
    image.update_header()
    header = image.header.copy()
    header.set_slope_inter(1, 0)
    stream = BytesIO()
    header.write_to(stream)
    return stream.getvalue().ljust(int(header["vox_offset"]), b"\0")


def _file_order(image: nib.Nifti1Image) -> NDArray[Any]:
    """Return voxels as the file has them, x fastest: as an array of reversed axes in the header's byte order.

    Plane by plane, because that stays in the processor's cache; `tobytes("F")` takes twice as long
    and lets no other thread run meanwhile.
    """
    data = np.asarray(image.dataobj)
    turned = np.empty(data.shape[::-1], image.get_data_dtype())
    for y in range(data.shape[1]):
        turned[..., y, :] = data[:, y].T
    return turned


def _check_header(image: nib.spatialimages.SpatialImage) -> None:
    shape = tuple(int(n) for n in image.shape)
    voxels = int(np.prod([float(n) for n in shape])) if shape else 0
    if voxels == 0:
        raise InputError(found=f"no voxels (shape {shape})", expected="a 3-D image")
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise InputError(
            found=f"{len(shape)} dimensions (shape {shape})", expected="a 3-D image", advice="Extract one volume."
        )
    if voxels > MAX_VOXELS:
        raise InputError(
            found=f"a header that promises {voxels:.3g} voxels (shape {shape})",
            expected=f"at most {MAX_VOXELS:.3g}",
            advice="The header is probably damaged.",
        )
    unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    if unit not in {"mm", "unknown"}:
        raise InputError(
            found=f"a voxel size in units of {unit}",
            expected="millimetres",
            advice="Correct the header's unit and voxel size.",
        )
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    low, high = PLAUSIBLE_SPACING_MM
    if not np.isfinite(image.affine).all() or (spacing < low).any() or (spacing > high).any():
        raise InputError(
            found=f"a voxel size of {' x '.join(f'{s:.4g}' for s in spacing)} mm",
            expected=f"{low} to {high} mm",
            advice="The header's unit may be metres or micrometres; correct it.",
        )
    if abs(np.linalg.det(image.affine[:3, :3] / spacing)) < _FLAT:
        raise InputError(found="an affine whose axes lie in one plane", expected="three independent axes")


def _check_gzip(path: Path) -> None:
    """Read a compressed file to its end, where its checksum is: nibabel stops before it."""
    if path.suffix.lower() in {".gz", ".mgz"}:
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass


def _check_values(data: NDArray[Any], *, may_be_empty: bool) -> None:
    if data.dtype.kind not in "biuf":
        raise InputError(
            found=f"voxels of type {data.dtype}", expected="one real number a voxel", advice="Export a grey image."
        )
    if np.issubdtype(data.dtype, np.inexact):
        bad = int(data.size - np.count_nonzero(np.isfinite(data)))
        if bad:
            raise InputError(
                found=f"{bad} voxels that are NaN or infinite",
                expected="finite values",
                advice="Export the image again.",
            )
    if not may_be_empty and not data.any():
        raise InputError(found="an image that is 0 everywhere", expected="a hemisphere")
