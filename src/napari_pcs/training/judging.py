"""Held-out hemispheres predicted whole, by the model as it was and by the tuned one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_pcs.metrics.report import compare_in
from napari_pcs.predict import predict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from napari_pcs.case import Case
    from napari_pcs.kept import KeptPredictions
    from napari_pcs.metrics.report import CaseReport
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.prediction import Prediction
    from napari_pcs.stop import StopToken
    from napari_pcs.training.labelled import Labelled

__all__ = ["Judge"]


@dataclass(frozen=True, eq=False)
class Judge:
    """Compares predictions of labelled cases with their labels.

    Attributes
    ----------
    model
        As it was before.
    device
        Where to compute.
    stop
        Setting it ends a prediction.
    kept
        The model's predictions that are there already; new ones of it are added.
    load
        Loads the model, if a prediction is missing.
    """

    model: ModelFolder
    device: torch.device
    stop: StopToken
    kept: KeptPredictions | None
    load: Callable[[ModelFolder], Segmenter]

    def after(self, cases: Sequence[Labelled], network: Segmenter) -> tuple[CaseReport, ...]:
        """Return how well a network tuned from the model labels each case.

        Raises
        ------
        CancelledError
            If stopped.
        """
        loaded = (labelled.load() for labelled in cases)
        return tuple(_report(case, self._predicted(case, network)) for case in loaded)

    def before(self, cases: Sequence[Labelled]) -> tuple[CaseReport, ...]:
        """Return how well the model as it was labels each case; its predictions are mostly there.

        Raises
        ------
        CancelledError
            If stopped.
        """
        network: Segmenter | None = None
        reports = []
        for labelled in cases:
            case = labelled.load()
            found = self.kept.get(case, self.model.reference, mode="whole") if self.kept else None
            if found is None:
                network = network or self.load(self.model).to(self.device)
                found = self._predicted(case, network)
                if self.kept:
                    self.kept.put(case, found)
            reports.append(_report(case, found))
        return tuple(reports)

    def _predicted(self, case: Case, network: Segmenter) -> Prediction:
        return predict(case, network, self.model.reference, self.device, stop=self.stop)


def _report(case: Case, prediction: Prediction) -> CaseReport:
    truth = case.truth
    assert truth is not None  # noqa: S101  only labelled cases are here
    return compare_in(case, prediction.labels, truth[1].data)
