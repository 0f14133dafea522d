"""What the worker does for each request."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_pcs.errors import PcsError
from napari_pcs.heap import give_back
from napari_pcs.models.folders import find_model
from napari_pcs.session import Session
from napari_pcs.worker.events import Predicted
from napari_pcs.worker.handover import case_of, hand_over
from napari_pcs.worker.loaded import LoadedNetworks
from napari_pcs.worker.messages import Predict, Prefetch, StoredCase, Tune, Warm
from napari_pcs.worker.prefetching import Prefetching

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_pcs.stop import StopToken
    from napari_pcs.worker.messages import Request
    from napari_pcs.worker.prefetching import Done
    from napari_pcs.worker.queue import Piece

__all__ = ["Duties"]


class Duties:
    """Warms, predicts, prefetches and tunes. What takes long to import is imported by whoever needs it first."""

    def __init__(self) -> None:
        self._networks = LoadedNetworks()
        self._done: set[Done] = set()

    def prepare(self) -> None:
        """Import torch, so that no request waits for it."""
        import torch  # noqa: F401

    def relieve(self) -> None:
        """Let go of the networks, and of what torch keeps of a GPU's memory."""
        import torch

        self._networks.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def rest(self) -> None:
        """Give back what earlier passes over hemispheres have freed."""
        give_back()

    def pieces(self, request: Request) -> Sequence[Piece]:
        """Return what is to be done for a request.

        Raises
        ------
        PcsError
            If it is not a request for work.
        """
        match request:
            case Warm():
                return [partial(self._warm, request)]
            case Predict():
                return [partial(self._predict, request)]
            case Tune():
                return [partial(self._tune, request)]
            case Prefetch():
                return Prefetching(request, self._networks, self._done).pieces()
        msg = f"The worker: found a request of the kind {type(request).__name__}, expected one with work to do."
        raise PcsError(msg)

    def _warm(self, request: Warm, stop: StopToken) -> Iterator[Any]:
        yield from self._networks.warm(find_model(request.model, *map(Path, request.models)), request.device, stop)

    def _predict(self, request: Predict, stop: StopToken) -> Iterator[Any]:
        from napari_pcs.caches import prediction_cache
        from napari_pcs.kept import KeptPredictions
        from napari_pcs.predict import Prediction

        case = case_of(request.case)
        own = (Session(Path(request.case.session)).models,) if isinstance(request.case, StoredCase) else ()
        model = find_model(request.model, *own, *map(Path, request.models))
        kept = KeptPredictions(prediction_cache())
        if kept.has(case, model.digest) and not request.again:
            folder = str(kept.bundles.folder)
            yield Predicted(model=model.reference, mode=None, folder=folder, temporary=False, kept=True)
            return
        for step in self._networks.predict(model, case, request.device, stop):
            yield hand_over(step, case, kept) if isinstance(step, Prediction) else step

    def _tune(self, request: Tune, stop: StopToken) -> Iterator[Any]:
        from napari_pcs.models.device import choose_device
        from napari_pcs.tuning import new_model_folder, tune_session

        session = Session.open(request.session)
        base = find_model(request.model, session.models, *map(Path, request.models))
        target = new_model_folder(session, base, request.config, request.name)
        device = choose_device(request.device)
        yield from tune_session(session, base, target, request.config, device, stop, load=self._networks.copy)
