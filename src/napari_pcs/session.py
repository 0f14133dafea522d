"""A session: a folder of cases, their predictions and corrections, laid out as a BIDS derivative."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.case import Case, LabelRole
from napari_pcs.commissures import FrameSource
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
from napari_pcs.session_files import TISSUE_UNIT
from napari_pcs.session_labels import SessionLabels, landmarks_of
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.bids import CaseKey
    from napari_pcs.provenance import Provenance

__all__ = ["Session"]

_SOURCE_FIELDS = ("ReadFrom",)
_LANDMARK_FIELDS = ("AnatomicalLandmarkCoordinates", "Commissures")


class Session(SessionLabels):
    """An open session folder. Every write is atomic; references are never overwritten.

    Parameters
    ----------
    root
        The folder; see `create` and `open`.
    """

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

    def new_run(self, what: str) -> Path:
        """Return a folder that does not exist yet for the record of one run."""
        return new_run_folder(self.root, what)

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

    def write_commissures(self, case: Case) -> None:
        """Replace what the session knows of a case's commissures.

        Raises
        ------
        SessionError
            If the disk refuses.
        InputError
            If the case's sidecar is damaged.
        """
        self._write_record(case.key, _LANDMARK_FIELDS, landmarks_of(case))

    def _write_record(self, key: CaseKey, replaced: tuple[str, ...], fields: dict[str, Any]) -> None:
        path = self._path(key, "gw", "dseg")
        known = {k: v for k, v in read_sidecar(path).items() if k not in replaced}
        write_text(sidecar_path(path), json_bytes({**known, **fields}).decode())

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
        stored = case.tissue.with_data(case.tissue.data * TISSUE_UNIT)
        return stored, {"Sources": sources, "SpatialReference": "orig", "Manual": False, **landmarks_of(case)}
