"""Predictions without a network, for tests of what is around it: labels follow from the tissue."""

import threading
from types import MappingProxyType

import numpy as np

from napari_pcs.labels import PcsClass
from napari_pcs.prediction import Prediction, Stage
from napari_pcs.provenance import ModelReference
from napari_pcs.stop import StopToken

MODEL = ModelReference(name="quick", digest="ab12")
OTHER = ModelReference(name="other", digest="cd34")


def quick_prediction(case, model=MODEL):
    """A prediction that depends on the tissue and the model."""
    labels = ((case.tissue.data.astype(int) + len(model.name)) % 3).astype(np.uint8)
    probabilities = np.stack([labels >= 1, labels == 2], axis=-1) * np.float32(0.75)
    shares = MappingProxyType(dict.fromkeys(PcsClass.measured(), 1 / 3))
    seconds = MappingProxyType({"prepare": 0.0, "network": 0.0, "postprocess": 0.0, "total": 0.0})
    return Prediction(labels, probabilities, shares, None, 0.5, seconds, 1.0, "cpu", "whole", model)


class QuickNetwork:
    """Stands in for `predict_steps`; counts which cases came to the network.

    Attributes
    ----------
    seen
        Stems of the cases that were in the network, in order.
    during
        Called with the stem while a case is in the network.
    """

    def __init__(self, monkeypatch, during=lambda _stem, _stop: None):
        from napari_pcs import cohort_prediction  # brings torch, which the other half does without

        self.seen, self.during, self._lock = [], during, threading.Lock()
        monkeypatch.setattr(cohort_prediction, "predict_steps", self.steps)

    def steps(self, case, _network, model, _device, *, stop=None, **_options):
        yield Stage("prepare", "Preparing")
        yield Stage("network", "Running")
        with self._lock:
            self.seen.append(case.key.stem)
        self.during(case.key.stem, stop or StopToken())
        yield Stage("postprocess", "Measuring")
        yield quick_prediction(case, model)
