"""What a file itself knows of the commissures: its sidecar, its case's sidecar, or its header."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from napari_pcs.bids import case_file, parse_key
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_pcs.volume import Volume

__all__ = ["WORLD", "commissures_in_file"]

WORLD = Commissures.from_points((0, 0, 0), (0, -25, 0), FrameSource.WORLD, "world coordinates are AC-PC aligned")
"""The frame of an image whose world coordinates are already AC-centred and AC-PC aligned."""
_TALAIRACH, _MNI = 3, 4


def commissures_in_file(volume: Volume) -> Commissures | None:
    """Return the commissures that a volume's own file knows, or None.

    Looked for in this order: `Commissures` (ours) or `AnatomicalLandmarkCoordinates` (BIDS: AC, PC and
    perhaps IH in voxels of the stored file) in the JSON sidecar; the same in the sidecar of the tissue
    map of its case, in a session; and a NIfTI form code that says that the world is Talairach's or MNI's.

    Raises
    ------
    InputError
        If a sidecar has landmarks that make no sense.
    """
    path = volume.path
    if path is not None:
        for candidate in (_sidecar(path), _case_sidecar(path)):
            if candidate is not None and candidate.exists():
                found = _from_json(candidate, volume)
                if found is not None:
                    return found
    code = int(volume.header["sform_code"]) or int(volume.header["qform_code"])
    if code == _MNI:
        return Commissures.from_mni(np.eye(4), FrameSource.FILE, "the header says MNI152")
    if code == _TALAIRACH:
        detail = "the header says Talairach: AC at the origin"
        return Commissures.from_points((0, 0, 0), (0, -24, 0), FrameSource.FILE, detail)
    return None


def _sidecar(path: Path) -> Path:
    name = path.name
    for ending in (".nii.gz", ".nii", ".mgz", ".mgh"):
        name = name.removesuffix(ending)
    return path.with_name(f"{name}.json")


def _case_sidecar(path: Path) -> Path | None:
    try:
        key = parse_key(path)
    except InputError:
        return None  # the name does not say the side, so it is no file of a session
    return _sidecar(path.with_name(case_file(key, "gw", "dseg").name))


def _from_json(path: Path, volume: Volume) -> Commissures | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "Commissures" in content:
            return Commissures.model_validate(content["Commissures"])
        landmarks = content.get("AnatomicalLandmarkCoordinates", {})
        if not {"AC", "PC"} <= landmarks.keys():
            return None
        stored = volume.source_affine
        points = {name: stored[:3, :3] @ _finite(name, xyz) + stored[:3, 3] for name, xyz in landmarks.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            found=f"landmarks that cannot be read ({_reason(error)})",
            expected='AnatomicalLandmarkCoordinates with "AC" and "PC" as three voxel coordinates each',
            advice="Correct the file, or take the landmarks out of it.",
            path=path,
        ) from error
    up = points["IH"] - points["AC"] if "IH" in points else volume.affine[:3, 2]
    try:
        return Commissures.from_points(points["AC"], points["PC"], FrameSource.FILE, path.name, superior=up)
    except InputError as error:
        raise error.at(path) from None


def _finite(name: str, voxel: Any) -> NDArray[np.float64]:
    found = np.asarray(voxel, dtype=np.float64)
    if found.shape != (3,) or not np.isfinite(found).all():
        msg = f"{name} is {voxel}"
        raise ValueError(msg)
    return found


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in ('Commissures', *first['loc']))}: {first['msg']}"
