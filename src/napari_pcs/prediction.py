"""What a model says of a hemisphere, without what runs the model: a window shows it and never loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from napari_pcs.case import Case, LabelRole
from napari_pcs.provenance import ModelReference, Provenance

if TYPE_CHECKING:
    from types import MappingProxyType

    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.anatomy.length import Measurement
    from napari_pcs.labels import PcsClass

__all__ = ["Prediction", "Stage"]


@dataclass(frozen=True)
class Stage:
    """What is being done, for a progress display."""

    name: Literal["prepare", "network", "postprocess"]
    sentence: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything that a model says of one hemisphere.

    Attributes
    ----------
    labels
        uint8 on the image's own RAS grid: 0, 1 skeleton, 2 PCS.
    probabilities
        float32 (x, y, z, 2) on the same grid: skeleton, PCS.
    class_probabilities
        The class head's own opinion, independent of the length.
    measurement
        Length of the labelled PCS and the class that the preset gives it; None where nobody knows
        the case's commissures.
    uncertainty
        Mean binary entropy (bits) of PCS given skeleton, where PCS is thinkable (P >= 0.05).
    timings_s
        Seconds in prepare (with the trial of an engine, where there was one), network, postprocess and total.
    mode
        "whole" (one padded pass) or "windows".
    engine
        Library and precision that ran the network.
    route
        How the network was run, and why not otherwise: "one pass, OpenVINO fp32".
    kept
        Whether it was read from what is kept; timings are then those of the time when the network ran.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    class_probabilities: MappingProxyType[PcsClass, float]
    measurement: Measurement | None
    uncertainty: float
    timings_s: MappingProxyType[str, float]
    peak_memory_mb: float
    device: str
    mode: Literal["whole", "windows"]
    model: ModelReference
    engine: str = "PyTorch fp32"
    route: str = "one pass, PyTorch fp32"
    kept: bool = False

    def add_to(self, case: Case) -> Case:
        """Return the case with these labels as its prediction."""
        return case.with_labels(LabelRole.PREDICTED, self.labels, self.provenance(case))

    def provenance(self, case: Case) -> Provenance:
        """Return the origin of these labels."""
        sources = (str(case.tissue.path),) if case.tissue.path else ()
        return Provenance(manual=False, hemisphere=case.key.hemisphere.value, sources=sources, model=self.model)
