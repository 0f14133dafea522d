"""A session: a folder of cases, their predictions and corrections, laid out as a BIDS derivative."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs import __version__
from napari_pcs.bids import CaseKey, case_file, parse_key
from napari_pcs.case import Case, LabelRole, LabelVolume, check_labels
from napari_pcs.commissures import Commissures
from napari_pcs.edits import Edit
from napari_pcs.errors import InputError, SessionError
from napari_pcs.files import json_bytes, write_text, write_together
from napari_pcs.labels import LABELS
from napari_pcs.provenance import Provenance
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Session"]

SCHEMA_VERSION = 1
_TISSUE_UNIT = np.uint8(100)
"""Tissue maps are stored as 100 grey, 200 white: no one can take them for a label map."""
_LANDMARK_FIELDS = ("AnatomicalLandmarkCoordinates", "Commissures")
_DESCRIPTIONS = {
    "gw": "grey/white map: 0 outside and fluid, 100 grey, 200 white",
    "skel": "sulcal skeleton extracted from the grey/white map",
    "pred": "labels predicted by a model",
    "corr": "labels corrected by a person",
    "ref": "reference labels that came with the case",
}


class Session:
    """An open session folder. Every write is atomic; references are never overwritten.

    Parameters
    ----------
    root
        The folder; see `create` and `open`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def create(cls, root: Path | str) -> Session:
        """Make a folder a session, or open it if it is one already.

        Raises
        ------
        SessionError
            If the folder cannot be written, or holds something else.
        """
        root = Path(root)
        if (root / "session.json").exists():
            return cls.open(root)
        if root.is_dir() and any(root.iterdir()):
            msg = (
                f"{root.name}: found a folder with other files, expected an empty or a new one. Choose another folder."
            )
            raise SessionError(msg)
        write_together(_new_session(root))
        return cls(root)

    @classmethod
    def open(cls, root: Path | str) -> Session:
        """Open an existing session.

        Raises
        ------
        SessionError
            If the folder is not a session, or was written by a newer version.
        """
        root = Path(root)
        try:
            found = json.loads((root / "session.json").read_text())["schema_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = (
                f"{root.name}: found no readable session.json, expected a session folder. Create one or choose another."
            )
            raise SessionError(msg) from error
        if found != SCHEMA_VERSION:
            msg = f"{root.name}: found session format {found}, expected {SCHEMA_VERSION}. Update napari-pcs."
            raise SessionError(msg)
        return cls(root)

    @property
    def models(self) -> Path:
        """Folder of models tuned in this session."""
        return self.root / "models"

    def new_run(self, what: str) -> Path:
        """Return a folder that does not exist yet for the record of one run."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        run = self.root / "runs" / f"{stamp}_{what}"
        for n in range(2, 1000):
            if not run.exists():
                break
            run = self.root / "runs" / f"{stamp}-{n}_{what}"
        return run

    def keys(self) -> list[CaseKey]:
        """Return the keys of all cases, in order."""
        return sorted(parse_key(path) for path in self.root.glob("sub-*/**/anat/*_desc-gw_dseg.nii.gz"))

    def add(self, case: Case) -> None:
        """Store a case's tissue map, image and labels, so that the session stands by itself.

        Raises
        ------
        SessionError
            If the session has another hemisphere under the same key, or the disk refuses.
        """
        tissue = self._path(case.key, "gw", "dseg")
        if tissue.exists():
            self._require_same(case)
        else:
            if case.image is not case.tissue:
                case.image.write(self._path(case.key, "orig", "T1w"))
            sources = [str(v.path) for v in (case.tissue, case.image) if v.path]
            stored = case.tissue.with_data(case.tissue.data * _TISSUE_UNIT)
            record = {"Sources": sources, "SpatialReference": "orig", "Manual": False, **_landmarks(case)}
            write_together(self._with_sidecar(tissue, stored, record))
        people = {key.subject for key in self.keys()}
        write_text(
            self.root / "participants.tsv", _tsv([("participant_id",), *((f"sub-{p}",) for p in sorted(people))])
        )
        for role in case.labels:
            if not self._labels_path(case.key, role).exists():
                self.write_labels(case, role)

    def write_commissures(self, case: Case) -> None:
        """Replace what the session knows of a case's commissures.

        Raises
        ------
        SessionError
            If the disk refuses.
        InputError
            If the case's sidecar is damaged.
        """
        path = self._path(case.key, "gw", "dseg")
        known = {k: v for k, v in _read_sidecar(path).items() if k not in _LANDMARK_FIELDS}
        write_text(_sidecar(path), json_bytes({**known, **_landmarks(case)}).decode())

    def _read_commissures(self, key: CaseKey) -> Commissures | None:
        path = self._path(key, "gw", "dseg")
        found = _read_sidecar(path).get("Commissures")
        try:
            return None if found is None else Commissures.model_validate(found)
        except ValueError as error:
            raise InputError(
                found="commissures that cannot be read", expected="those written with the case", path=_sidecar(path)
            ) from error

    def _require_same(self, case: Case) -> None:
        stored = self._read_tissue(case.key)
        if stored.shape != case.tissue.shape or not np.array_equal(stored.data, case.tissue.data):
            msg = (
                f"{case.key.stem}: found another hemisphere of that name in session {self.root.name}, expected the same"
                " image. Rename the file, or use another session."
            )
            raise SessionError(msg)

    def _read_tissue(self, key: CaseKey) -> Volume:
        stored = Volume.read(self._path(key, "gw", "dseg"))
        return replace(stored, data=(stored.data // _TISSUE_UNIT).astype(np.uint8))

    def load(self, key: CaseKey) -> Case:
        """Read a case with every label map that the session has for it.

        Raises
        ------
        InputError
            If a file is damaged or on another grid.
        """
        tissue = self._read_tissue(key)
        image_path = self._path(key, "orig", "T1w")
        image = Volume.read(image_path) if image_path.exists() else tissue
        labels = {}
        for role in LabelRole:
            path = self._labels_path(key, role)
            if path.exists():
                labels[role] = self._read_labels(path, tissue)
        return Case(key, tissue, image, MappingProxyType(labels), self._read_commissures(key))

    def cases(self) -> Iterator[Case]:
        """Read all cases, one after the other."""
        for key in self.keys():
            yield self.load(key)

    def corrected_keys(self) -> list[CaseKey]:
        """Return the keys of the cases that have a correction."""
        return [key for key in self.keys() if self._labels_path(key, LabelRole.CORRECTED).exists()]

    def write_labels(self, case: Case, role: LabelRole) -> Path:
        """Write one label map of a case together with its sidecar.

        Raises
        ------
        SessionError
            If it would replace a reference, or the disk refuses; what was there is untouched.
        """
        path = self._labels_path(case.key, role)
        if role is LabelRole.REFERENCE and path.exists():
            msg = f"{path.name}: found a reference already, expected none. References are never overwritten."
            raise SessionError(msg)
        labels = case.labels[role]
        write_together(self._with_sidecar(path, case.tissue.with_data(labels.data), labels.provenance.sidecar()))
        return path

    def write_correction(self, case: Case, before: NDArray[np.uint8], seconds: float) -> Path:
        """Write the corrected labels, their sidecar and the edit that led to them, all or none.

        Parameters
        ----------
        case
            With its correction.
        before
            The labels at the beginning of this sitting.
        seconds
            Length of this sitting.
        """
        correction = case.labels[LabelRole.CORRECTED]
        provenance = correction.provenance
        edit = Edit.between(before, correction.data, editor=provenance.editor or "", seconds=seconds)
        path = self._labels_path(case.key, LabelRole.CORRECTED)
        log = path.with_name(path.name.replace("_dseg.nii.gz", "_edits.jsonl"))
        earlier = log.read_bytes() if log.exists() else b""
        contents = self._with_sidecar(path, case.tissue.with_data(correction.data), provenance.sidecar())
        write_together({**contents, log: earlier + edit.model_dump_json().encode() + b"\n"})
        return path

    def write_skeleton(self, case: Case, skeleton: NDArray[np.bool_], provenance: Provenance) -> Path:
        """Write the extracted skeleton as a mask."""
        path = self._path(case.key, "skel", "mask")
        mask = case.tissue.with_data(skeleton.astype(np.uint8))
        write_together(self._with_sidecar(path, mask, provenance.sidecar()))
        return path

    def write_probabilities(self, case: Case, probabilities: NDArray[np.float32], provenance: Provenance) -> Path:
        """Write probabilities (x, y, z, channel) for skeleton and PCS."""
        path = self._path(case.key, "pred", "probseg", segmentation=True)
        volume = case.tissue.with_data(np.round(probabilities, 3).astype(np.float32))
        write_together(self._with_sidecar(path, volume, {**provenance.sidecar(), "LabelMap": ["skeleton", "PCS"]}))
        return path

    @staticmethod
    def _with_sidecar(path: Path, volume: Volume, sidecar: dict[str, object]) -> dict[Path, bytes]:
        return {path: volume.encode(path), _sidecar(path): json_bytes(sidecar)}

    def _path(self, key: CaseKey, description: str, suffix: str, *, segmentation: bool = False) -> Path:
        return self.root / case_file(key, description, suffix, segmentation=segmentation)

    def _labels_path(self, key: CaseKey, role: LabelRole) -> Path:
        return self._path(key, role.value, "dseg", segmentation=True)

    def _read_labels(self, path: Path, tissue: Volume) -> LabelVolume:
        volume = Volume.read(path, may_be_empty=True)
        check_same_grid(tissue, volume, "labels")
        try:
            provenance = Provenance.model_validate_json(_sidecar(path).read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                found="no readable sidecar", expected="the JSON file written beside it", path=path
            ) from error
        return LabelVolume(check_labels(volume.data), provenance)


def _new_session(root: Path) -> dict[Path, bytes]:
    """Files of an empty session; `session.json` comes last and makes it one."""
    description = {
        "Name": root.name,
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "napari-pcs", "Version": __version__}],
    }
    labels = [(str(int(e.label)), e.name, e.abbreviation, e.color[:7]) for e in LABELS]
    ignored = ("models/", "runs/", "session.json", "*_edits.jsonl", "*_probseg.nii.gz")
    return {
        root / "dataset_description.json": json_bytes(description),
        root / "participants.tsv": _tsv([("participant_id",)]).encode(),
        root / "descriptions.tsv": _tsv([("desc_id", "description"), *_DESCRIPTIONS.items()]).encode(),
        root / "dseg.tsv": _tsv([("index", "name", "abbreviation", "color"), *labels]).encode(),
        root / ".bidsignore": "".join(f"{line}\n" for line in ignored).encode(),
        root / "session.json": json_bytes({"schema_version": SCHEMA_VERSION}),
    }


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(_sidecar(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(found="no readable sidecar", expected="the JSON file written beside it", path=path) from error
    return content


def _landmarks(case: Case) -> dict[str, Any]:
    if case.commissures is None:
        return {}
    return case.commissures.sidecar(np.linalg.inv(case.tissue.to_source().header.get_best_affine()))


def _tsv(rows: list[Any]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)
