"""What is too large for a line, as files: a case that no session has, and a prediction.

A case goes to the worker in a file of its own; a prediction comes back among the bundles of the
predictions' cache or, where the cache refuses it, in a temporary folder.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import nibabel as nib
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from napari_pcs.bids import CaseKey, parse_key
from napari_pcs.case import Case
from napari_pcs.commissures import Commissures
from napari_pcs.errors import InputError, PcsError
from napari_pcs.files import write_bytes
from napari_pcs.labels import Hemisphere
from napari_pcs.session import Session
from napari_pcs.volume import Volume
from napari_pcs.worker.events import Predicted
from napari_pcs.worker.messages import HandedCase

if TYPE_CHECKING:
    from napari_pcs.kept import KeptPredictions
    from napari_pcs.predict import Prediction
    from napari_pcs.worker.messages import CaseSource

__all__ = ["case_of", "discard", "fetch", "hand_over", "read_case", "write_case"]

_CONTENT = "content"


def write_case(case: Case, folder: Path) -> Path:
    """Write what predicting and measuring need of a case: key, tissue with its geometry, commissures.

    Parameters
    ----------
    case
        Labels and displayed image are left out.
    folder
        Made if need be. The file gets a new name, and is its writer's to remove.

    Raises
    ------
    SessionError
        If the folder is read-only or the disk is full.
    """
    tissue = case.tissue
    described = {
        "key": list(case.key),
        "path": str(tissue.path) if tissue.path else None,
        "endianness": tissue.header.endianness,
        "commissures": case.commissures.model_dump(mode="json") if case.commissures else None,
    }
    arrays = {
        "tissue": np.ascontiguousarray(tissue.data),
        "affine": np.ascontiguousarray(tissue.affine, dtype=np.float64),
        "orientation": np.ascontiguousarray(tissue.orientation, dtype=np.float64),
        "header": np.frombuffer(tissue.header.binaryblock, np.uint8),
    }
    path = folder / f"{case.key.stem}_{uuid4().hex}.safetensors"
    write_bytes(path, save(arrays, {_CONTENT: json.dumps(described)}))
    return path


def read_case(path: Path) -> Case:
    """Read a case that `write_case` wrote; its tissue map is also what is shown.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        with safe_open(path, "np") as stored:
            described: dict[str, Any] = json.loads(stored.metadata()[_CONTENT])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  it is no mapping
        header = nib.Nifti1Header(arrays["header"].tobytes(), described["endianness"])
        source = described["path"] and Path(described["path"])
        tissue = Volume(arrays["tissue"], arrays["affine"], header, arrays["orientation"], source)
        subject, session, hemisphere = described["key"]
        known = described["commissures"]
        commissures = None if known is None else Commissures.model_validate(known)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            found=f"a case that cannot be read ({error})",
            expected="the file that was written for the worker",
            advice="Try again.",
            path=path,
        ) from error
    return Case(CaseKey(subject, session, Hemisphere(hemisphere)), tissue, tissue, commissures=commissures)


def case_of(source: CaseSource) -> Case:
    """Read the case that a request names.

    Raises
    ------
    InputError
        If its files are missing or damaged.
    SessionError
        If the folder is no session.
    """
    if isinstance(source, HandedCase):
        return read_case(Path(source.path))
    return Session.open(source.session).load(parse_key(source.case))


def hand_over(prediction: Prediction, case: Case, kept: KeptPredictions) -> Predicted:
    """Put a prediction where the other process can read it.

    Raises
    ------
    PcsError
        If neither the cache nor the system's folder for temporary files takes it.
    """
    temporary = not kept.put(case, prediction)
    folder = kept.bundles.folder
    if temporary:
        folder = Path(mkdtemp(prefix="napari-pcs-"))
        if not _among(folder).put(case, prediction):
            shutil.rmtree(folder, ignore_errors=True)
            msg = (
                f"The prediction could be written neither to {kept.bundles.folder} nor to {folder.parent}. Free some"
                " space, and predict again."
            )
            raise PcsError(msg)
    return Predicted(model=prediction.model, mode=prediction.mode, folder=str(folder), temporary=temporary, kept=False)


def fetch(told: Predicted, case: Case) -> Prediction | None:
    """Read the prediction of a case that the worker has told of; None if it is not there any more."""
    found = _among(Path(told.folder)).get(case, told.model, mode=told.mode)
    discard(told)
    return found


def discard(told: Predicted) -> None:
    """Remove a prediction that was handed over in a folder of its own."""
    if told.temporary:
        shutil.rmtree(told.folder, ignore_errors=True)


def _among(folder: Path) -> KeptPredictions:
    from napari_pcs.data.bundles import Bundles
    from napari_pcs.kept import KeptPredictions

    return KeptPredictions(Bundles(folder, sys.maxsize))
