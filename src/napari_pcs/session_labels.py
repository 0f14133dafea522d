"""What was made of a session's cases, written: label maps, probabilities, skeletons and edits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_pcs.case import Case, LabelRole
from napari_pcs.edits import Edit
from napari_pcs.errors import SessionError
from napari_pcs.files import json_bytes, write_together
from napari_pcs.layout import sidecar_path
from napari_pcs.session_files import SessionFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_pcs.provenance import Provenance
    from napari_pcs.volume import Volume

__all__ = ["SessionLabels", "landmarks_of"]


class SessionLabels(SessionFiles):
    """The files of a session folder, to which what is made of its cases is added; see `napari_pcs.session.Session`.

    Parameters
    ----------
    root
        The folder.
    """

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
            sidecar["Prediction"] = {"Said": dict(said), "MeasuredWith": landmarks_of(case).get("Commissures")}
        outputs = self.outputs(case.key)
        # What says which model it was comes last.
        write_together(
            self._with_sidecar(Path(outputs["probabilities"]), channels, sidecar)
            | self._with_sidecar(
                Path(outputs["labels"]), case.tissue.with_data(predicted.data), predicted.provenance.sidecar()
            )
        )
        return outputs

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


def landmarks_of(case: Case) -> dict[str, Any]:
    """Return what a tissue map's sidecar says of AC, PC and midline, nothing if they are not known."""
    if case.commissures is None:
        return {}
    return case.commissures.sidecar(np.linalg.inv(case.tissue.source_affine))
