"""Predicting before anybody asks: the cases that come next, and what tuning on corrected ones needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_pcs.bids import case_file, parse_key
from napari_pcs.case import LabelRole
from napari_pcs.errors import InputError, PcsError, SessionError
from napari_pcs.models.folders import find_model
from napari_pcs.session import Session
from napari_pcs.training.events import Skipped
from napari_pcs.worker.events import Prefetched

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_pcs.bids import CaseKey
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.stop import StopToken
    from napari_pcs.worker.loaded import LoadedNetworks
    from napari_pcs.worker.messages import Prefetch
    from napari_pcs.worker.queue import Piece

__all__ = ["Prefetching"]


class Prefetching:
    """One request to prefetch. All predictions come before what tuning needs.

    A case that cannot be read is told as `Skipped`, and the others have their turn.

    Parameters
    ----------
    request
        What to prefetch.
    networks
        That are loaded.

    Raises
    ------
    PcsError
        If the session or the model cannot be opened.
    """

    def __init__(self, request: Prefetch, networks: LoadedNetworks) -> None:
        self._request, self._networks = request, networks
        self._session = Session.open(request.session)
        self._model: ModelFolder = find_model(request.model, self._session.models, *map(Path, request.models))
        self._skipped: set[str] = set()

    def pieces(self) -> Sequence[Piece]:
        """Return a piece for each case, and another for each corrected one."""
        predictions: list[Piece] = [partial(self._prediction, case) for case in self._request.cases]
        if self._request.tune is None:
            return predictions
        return [*predictions, *(partial(self._features, case) for case in self._request.cases)]

    def _prediction(self, name: str, stop: StopToken) -> Iterator[Any]:
        from napari_pcs.caches import prediction_cache
        from napari_pcs.kept import KeptPredictions
        from napari_pcs.predict import Prediction

        kept = KeptPredictions(prediction_cache())
        try:
            case = self._session.load(parse_key(name))
            if not kept.has(case, self._model.digest):
                steps = self._networks.predict(self._model, case, self._request.device, stop, idle=True)
                for step in steps:
                    if isinstance(step, Prediction) and not kept.put(case, step):
                        msg = f"Nothing is predicted in advance: {kept.bundles.folder} does not take predictions."
                        raise PcsError(msg)
        except (InputError, SessionError) as error:
            yield self._skip(name, error)
        else:
            yield Prefetched(case=name, what="prediction")

    def _features(self, name: str, stop: StopToken) -> Iterator[Any]:
        from napari_pcs.models.device import choose_device
        from napari_pcs.tuning import prepare_case

        config = self._request.tune
        if config is None or name in self._skipped:
            return
        try:
            key = parse_key(name)
            if not self._is_corrected(key):
                return
            device = choose_device(self._request.device)
            prepare_case(self._session, key, self._model, config, device, stop, load=self._networks.copy)
        except (InputError, SessionError) as error:
            yield self._skip(name, error)
        else:
            yield Prefetched(case=name, what="features")

    def _is_corrected(self, key: CaseKey) -> bool:
        labels = case_file(key, LabelRole.CORRECTED.value, "dseg", segmentation=True)
        return (self._session.root / labels).exists()

    def _skip(self, name: str, error: PcsError) -> Skipped:
        self._skipped.add(name)
        return Skipped(name=name, reason=str(error), count=len(self._skipped), of=len(self._request.cases))
