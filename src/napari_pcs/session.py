"""A session: a folder of cases, their predictions and corrections, laid out as a BIDS derivative."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.bids import CaseKey, case_file, file_ending, parse_key
from napari_pcs.case import Case, LabelRole, LabelVolume, check_labels
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.contents import Contents
from napari_pcs.edits import Edit
from napari_pcs.errors import InputError, SessionError
from napari_pcs.files import json_bytes, write_text, write_together
from napari_pcs.layout import (
    SCHEMA_VERSION,
    file_state,
    new_run_folder,
    new_session,
    read_sidecar,
    sidecar_path,
)
from napari_pcs.participants import Participants
from napari_pcs.provenance import Provenance
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["Session"]

_TISSUE_UNIT = np.uint8(100)
"""Tissue maps are stored as 100 grey, 200 white: no one can take them for a label map."""
_SOURCE_FIELDS = ("ReadFrom",)
_TISSUE = file_ending("gw", "dseg")
_LANDMARK_FIELDS = ("AnatomicalLandmarkCoordinates", "Commissures")


class Session:
    """An open session folder. Every write is atomic; references are never overwritten.

    Parameters
    ----------
    root
        The folder; see `create` and `open`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._contents = Contents(root)

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
        write_together(new_session(root))
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
        return new_run_folder(self.root, what)

    def keys(self) -> list[CaseKey]:
        """Return the keys of all cases, in order."""
        return self._keys_with(_TISSUE)

    def _keys_with(self, *endings: str) -> list[CaseKey]:
        """Return the keys of the cases that have files whose names end so, in order."""
        first, *others = endings
        return sorted(
            _key_of(name)
            for _, names in self._contents.names()
            for name in names
            if name.endswith(first) and all(name.removesuffix(first) + other in names for other in others)
        )

    def has(self, key: CaseKey) -> bool:
        """Say whether the session has a case; costs the same however many it has."""
        return self._path(key, "gw", "dseg").exists()

    def add(self, case: Case, source: Path | None = None) -> None:
        """Store a case's tissue map, image and labels, so that the session stands by itself.

        Parameters
        ----------
        case
            The hemisphere.
        source
            The file or folder that it was read from, to be known again; see `was_read_from`.

        Raises
        ------
        SessionError
            If the session has another hemisphere under the same key, or the disk refuses.
        """
        tissue = self._path(case.key, "gw", "dseg")
        if tissue.exists():
            self._require_same(case)
            with self._people.with_listed(case.key.subject) as listing:
                write_together(listing)
            if source is not None and not self.was_read_from(case.key, source):
                self._write_record(case.key, _SOURCE_FIELDS, {"ReadFrom": file_state(source)})
        else:
            if case.image is not case.tissue:
                case.image.write(self._path(case.key, "orig", "T1w"))
            stored, record = self._tissue_record(case)
            if source is not None:
                record |= {"ReadFrom": file_state(source)}
            with self._people.with_listed(case.key.subject) as listing:
                # The tissue map comes last: only with it does the session have the case.
                write_together({**listing, **dict(reversed(self._with_sidecar(tissue, stored, record).items()))})
        for role in case.labels:
            if not self._labels_path(case.key, role).exists():
                self.write_labels(case, role)

    def add_prepared(
        self,
        case: Case,
        skeleton: NDArray[np.bool_],
        pieces: NDArray[np.integer],
        table: str,
        provenance: Provenance,
        *,
        origin: str,
        force: bool = False,
    ) -> Case:
        """Store a case together with its skeleton and fold pieces, all files or none.

        Parameters
        ----------
        case
            Tissue map, image, commissures and perhaps a reference.
        skeleton
            Mask on the case's grid.
        pieces, table
            Ids of the fold pieces on the same grid, and what is known of each as TSV.
        provenance
            What made the skeleton and the pieces.
        origin
            What it was prepared from; see `origin`.
        force
            Replace the tissue map, image and skeleton that the session has.

        Returns
        -------
        Case
            With the commissures that the session keeps: those that a person has set stay.

        Raises
        ------
        SessionError
            If the session has another hemisphere under the same key, or labels on another grid.
        """
        tissue, image = self._path(case.key, "gw", "dseg"), self._path(case.key, "orig", "T1w")
        if tissue.exists():
            self._require_replaceable(case) if force else self._require_same(case)
            known = self._read_commissures(case.key)
            if known is not None and known.source is FrameSource.CLICKS:
                case = replace(case, commissures=known)
        contents: dict[Path, bytes] = {}
        if case.image is not case.tissue:
            contents[image] = case.image.encode(image)
        for role, labels in case.labels.items():
            path = self._labels_path(case.key, role)
            if role is LabelRole.PROPOSED or not path.exists():
                contents |= self._with_sidecar(path, case.tissue.with_data(labels.data), labels.provenance.sidecar())
        folds = self._path(case.key, "folds", "dseg")
        numbers = case.tissue.with_data(pieces.astype(np.uint16))
        contents |= self._with_sidecar(folds, numbers, provenance.sidecar())
        contents[folds.with_name(folds.name.removesuffix(".nii.gz") + ".tsv")] = table.encode()
        mask = case.tissue.with_data(skeleton.astype(np.uint8))
        contents |= self._with_sidecar(self._path(case.key, "skel", "mask"), mask, provenance.sidecar())
        # The tissue map comes last: only with it does the session have the case.
        stored, record = self._tissue_record(case)
        contents |= reversed(self._with_sidecar(tissue, stored, {**record, "PreparedFrom": origin}).items())
        with self._people.with_listed(case.key.subject) as listing:
            write_together({**listing, **contents})
        if image not in contents:
            image.unlink(missing_ok=True)
        return case

    def list_participants(self) -> None:
        """Write the list of people anew, from the cases that are there; further columns of the file stay.

        Raises
        ------
        SessionError
            If the disk refuses, or another program keeps the list.
        """
        self._people.write({key.subject for key in self.keys()})

    @property
    def _people(self) -> Participants:
        return Participants(self.root)

    def origin(self, key: CaseKey) -> str | None:
        """Return what a case was prepared from; None if the session does not have it, or not from `prepare`."""
        path = self._path(key, "gw", "dseg")
        found = read_sidecar(path).get("PreparedFrom") if path.exists() else None
        return None if found is None else str(found)

    def was_read_from(self, key: CaseKey, source: Path) -> bool:
        """Say whether a case was read from this file as it is now, or from this folder and all that is in it.

        Raises
        ------
        InputError
            If the case's sidecar is damaged.
        """
        if not self.has(key):
            return False
        try:
            now = file_state(source)
        except OSError:
            return False
        return bool(read_sidecar(self._path(key, "gw", "dseg")).get("ReadFrom") == now)

    def has_same(self, case: Case) -> bool:
        """Say whether the session has a case, this very image.

        Raises
        ------
        SessionError
            If it has another hemisphere under the same key.
        """
        if not self.has(case.key):
            return False
        self._require_same(case)
        return True

    def is_predicted(self, key: CaseKey, model_digest: str) -> bool:
        """Say whether a case has all that this model predicts of its tissue map as that is now."""
        labels = self._labels_path(key, LabelRole.PREDICTED)
        probabilities = self._probabilities_path(key)
        try:
            made = sidecar_path(labels).stat().st_mtime_ns
            current = self._path(key, "gw", "dseg").stat().st_mtime_ns <= made
            model = self._read_provenance(labels).model
        except (OSError, InputError):
            return False
        known = model is not None and model.digest == model_digest
        return known and current and labels.exists() and probabilities.exists()

    def said_of(self, key: CaseKey) -> dict[str, Any] | None:
        """Return what was written about a case's prediction, see `write_prediction`; None if it does not hold now.

        It holds no longer when the commissures have changed since: they decide lengths.

        Raises
        ------
        InputError
            If a sidecar is damaged.
        """
        written = read_sidecar(self._probabilities_path(key)).get("Prediction")
        if not isinstance(written, dict) or written.get("MeasuredWith") != self._read_landmarks(key):
            return None
        return {**written["Said"], "outputs": self.outputs(key)}

    def is_prepared(self, key: CaseKey, origin: str) -> bool:
        """Say whether a case was prepared from this origin, with skeleton and fold pieces."""
        wanted = (self._path(key, "skel", "mask"), self._path(key, "folds", "dseg"))
        return self.origin(key) == origin and all(path.exists() for path in wanted)

    def load_skeleton(self, key: CaseKey) -> NDArray[np.bool_] | None:
        """Read the extracted skeleton of a case, a mask in RAS order; None if there is none.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        path = self._path(key, "skel", "mask")
        return Volume.read(path, may_be_empty=True).data > 0 if path.exists() else None

    def load_pieces(self, key: CaseKey) -> NDArray[np.int32] | None:
        """Read the ids of a case's fold pieces in RAS order; None if it has none.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        path = self._path(key, "folds", "dseg")
        return Volume.read(path, may_be_empty=True).data.astype(np.int32) if path.exists() else None

    def write_commissures(self, case: Case) -> None:
        """Replace what the session knows of a case's commissures.

        Raises
        ------
        SessionError
            If the disk refuses.
        InputError
            If the case's sidecar is damaged.
        """
        self._write_record(case.key, _LANDMARK_FIELDS, _landmarks(case))

    def _write_record(self, key: CaseKey, replaced: tuple[str, ...], fields: dict[str, Any]) -> None:
        path = self._path(key, "gw", "dseg")
        known = {k: v for k, v in read_sidecar(path).items() if k not in replaced}
        write_text(sidecar_path(path), json_bytes({**known, **fields}).decode())

    def _read_landmarks(self, key: CaseKey) -> dict[str, Any] | None:
        found: dict[str, Any] | None = read_sidecar(self._path(key, "gw", "dseg")).get("Commissures")
        return found

    def _read_commissures(self, key: CaseKey) -> Commissures | None:
        path = self._path(key, "gw", "dseg")
        found = self._read_landmarks(key)
        try:
            return None if found is None else Commissures.model_validate(found)
        except ValueError as error:
            raise InputError(
                found="commissures that cannot be read", expected="those written with the case", path=sidecar_path(path)
            ) from error

    def _require_same(self, case: Case) -> None:
        stored = self._read_tissue(case.key)
        if stored.shape != case.tissue.shape or not np.array_equal(stored.data, case.tissue.data):
            msg = (
                f"{case.key.stem}: found another hemisphere of that name in session {self.root.name}, expected the same"
                " image. Rename the file, or use another session."
            )
            raise SessionError(msg)

    def _require_replaceable(self, case: Case) -> None:
        if not any(self._labels_path(case.key, role).exists() for role in LabelRole):
            return
        try:
            check_same_grid(self._read_tissue(case.key), case.tissue, "an image")
        except InputError as error:
            msg = (
                f"{case.key.stem}: found labels on another grid in session {self.root.name}, expected the same image."
                " Rename the file, or use another session."
            )
            raise SessionError(msg) from error

    @staticmethod
    def _tissue_record(case: Case) -> tuple[Volume, dict[str, object]]:
        """Return the tissue map as it is stored, and its sidecar."""
        sources = [str(v.path) for v in (case.tissue, case.image) if v.path]
        stored = case.tissue.with_data(case.tissue.data * _TISSUE_UNIT)
        return stored, {"Sources": sources, "SpatialReference": "orig", "Manual": False, **_landmarks(case)}

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
        return self._keys_with(_TISSUE, file_ending(LabelRole.CORRECTED.value, "dseg", segmentation=True))

    def correction_provenance(self, key: CaseKey) -> Provenance:
        """Read what made a case's correction, without the labels.

        Raises
        ------
        InputError
            If the sidecar is missing or damaged.
        """
        return self._read_provenance(self._labels_path(key, LabelRole.CORRECTED))

    def files_to_tune_on(self, key: CaseKey) -> list[Path]:
        """Return the files of a corrected case that decide what is learnt from it: first its correction.

        The correction's provenance decides too; see `correction_provenance`.
        """
        roles = (LabelRole.CORRECTED, LabelRole.PREDICTED, LabelRole.PROPOSED)
        labels = [path for role in roles if (path := self._labels_path(key, role)).exists()]
        tissue = self._path(key, "gw", "dseg")
        return [*labels, tissue, sidecar_path(tissue)]

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

    def write_prediction(
        self, case: Case, probabilities: NDArray[np.float32], said: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """Write the predicted labels of a case and their probabilities (x, y, z, channel), all files or none.

        Parameters
        ----------
        case
            With its prediction; the session has it.
        probabilities
            Of skeleton and PCS.
        said
            What else is known of the prediction, of JSON types; see `said_of`.

        Returns
        -------
        dict
            Paths of "labels" and "probabilities".

        Raises
        ------
        SessionError
            If the disk refuses; what was there is untouched.
        """
        predicted = case.labels[LabelRole.PREDICTED]
        channels, sidecar = self._probabilities(case, probabilities, predicted.provenance)
        if said is not None:
            sidecar["Prediction"] = {"Said": dict(said), "MeasuredWith": _landmarks(case).get("Commissures")}
        outputs = self.outputs(case.key)
        # What says which model it was comes last.
        write_together(
            self._with_sidecar(Path(outputs["probabilities"]), channels, sidecar)
            | self._with_sidecar(
                Path(outputs["labels"]), case.tissue.with_data(predicted.data), predicted.provenance.sidecar()
            )
        )
        return outputs

    def outputs(self, key: CaseKey) -> dict[str, str]:
        """Return where a case's predicted "labels" and "probabilities" lie, once there are any."""
        return {
            "labels": str(self._labels_path(key, LabelRole.PREDICTED)),
            "probabilities": str(self._probabilities_path(key)),
        }

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
        path = self._probabilities_path(case.key)
        write_together(self._with_sidecar(path, *self._probabilities(case, probabilities, provenance)))
        return path

    @staticmethod
    def _probabilities(
        case: Case, probabilities: NDArray[np.float32], provenance: Provenance
    ) -> tuple[Volume, dict[str, object]]:
        """Return probabilities as they are stored, to three digits, and their sidecar."""
        volume = case.tissue.with_data(np.round(probabilities, 3).astype(np.float32, copy=False))
        return volume, {**provenance.sidecar(), "LabelMap": ["skeleton", "PCS"]}

    @staticmethod
    def _with_sidecar(path: Path, volume: Volume, sidecar: dict[str, object]) -> dict[Path, bytes]:
        return {path: volume.encode(path), sidecar_path(path): json_bytes(sidecar)}

    def _path(self, key: CaseKey, description: str, suffix: str, *, segmentation: bool = False) -> Path:
        return self.root / case_file(key, description, suffix, segmentation=segmentation)

    def _labels_path(self, key: CaseKey, role: LabelRole) -> Path:
        return self._path(key, role.value, "dseg", segmentation=True)

    def _probabilities_path(self, key: CaseKey) -> Path:
        return self._path(key, "pred", "probseg", segmentation=True)

    def _read_labels(self, path: Path, tissue: Volume) -> LabelVolume:
        volume = Volume.read(path, may_be_empty=True)
        check_same_grid(tissue, volume, "labels")
        return LabelVolume(check_labels(volume.data), self._read_provenance(path))

    @staticmethod
    def _read_provenance(path: Path) -> Provenance:
        try:
            return Provenance.model_validate_json(sidecar_path(path).read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                found="no readable sidecar", expected="the JSON file written beside it", path=path
            ) from error


@lru_cache(maxsize=1 << 16)
def _key_of(name: str) -> CaseKey:
    return parse_key(name)


def _landmarks(case: Case) -> dict[str, Any]:
    if case.commissures is None:
        return {}
    return case.commissures.sidecar(np.linalg.inv(case.tissue.source_affine))
