"""What a session has: its cases, and what was made of each, as its files say."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.bids import CaseKey, case_file, file_ending, parse_key
from napari_pcs.case import Case, LabelRole, LabelVolume, check_labels
from napari_pcs.commissures import Commissures
from napari_pcs.contents import Contents
from napari_pcs.errors import InputError, SessionError
from napari_pcs.layout import file_state, read_sidecar, sidecar_path
from napari_pcs.provenance import Provenance
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TISSUE_UNIT", "SessionFiles"]

TISSUE_UNIT = np.uint8(100)
"""Tissue maps are stored as 100 grey, 200 white: no one can take them for a label map."""
_TISSUE = file_ending("gw", "dseg")


class SessionFiles:
    """The files of a session folder, read only; see `napari_pcs.session.Session`.

    Parameters
    ----------
    root
        The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._contents = Contents(root)

    @property
    def models(self) -> Path:
        """Folder of models tuned in this session."""
        return self.root / "models"

    def keys(self) -> list[CaseKey]:
        """Return the keys of all cases, in order."""
        return self._keys_with(_TISSUE)

    def has(self, key: CaseKey) -> bool:
        """Say whether the session has a case; costs the same however many it has."""
        return self._path(key, "gw", "dseg").exists()

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

    def outputs(self, key: CaseKey) -> dict[str, str]:
        """Return where a case's predicted "labels" and "probabilities" lie, once there are any."""
        return {
            "labels": str(self._labels_path(key, LabelRole.PREDICTED)),
            "probabilities": str(self._probabilities_path(key)),
        }

    def _keys_with(self, *endings: str) -> list[CaseKey]:
        """Return the keys of the cases that have files whose names end so, in order."""
        first, *others = endings
        return sorted(
            _key_of(name)
            for _, names in self._contents.names()
            for name in names
            if name.endswith(first) and all(name.removesuffix(first) + other in names for other in others)
        )

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

    def _read_tissue(self, key: CaseKey) -> Volume:
        stored = Volume.read(self._path(key, "gw", "dseg"))
        return replace(stored, data=(stored.data // TISSUE_UNIT).astype(np.uint8))

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
