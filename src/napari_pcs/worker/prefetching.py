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

__all__ = ["Done", "Prefetching"]

Done = tuple[str, str, str, tuple[tuple[str, int, int], ...]]
"""Session, digest of the model, settings, and the files of a case with their times and sizes."""
_DECIDING = {"strategy", "patch", "patches", "views", "seed", "lora"}
"""Settings on which the values depend."""
_MOST = 64
"""Cases whose values are computed ahead: those of some more would drive the first ones out of the cache again."""


class Prefetching:
    """One request to prefetch. All predictions come before what tuning needs.

    A case that cannot be read is told as `Skipped`, and the others have their turn. What tuning needs is
    computed for all corrected cases of the session up to `_MOST`: first those that were asked for, then those
    that were corrected last.

    Parameters
    ----------
    request
        What to prefetch.
    networks
        That are loaded.
    done
        What is computed already of what tuning needs; grows. Looking for it costs more with every corrected case.

    Raises
    ------
    PcsError
        If the session or the model cannot be opened.
    """

    def __init__(self, request: Prefetch, networks: LoadedNetworks, done: set[Done] | None = None) -> None:
        self._request, self._networks = request, networks
        self._done: set[Done] = set() if done is None else done
        self._session = Session.open(request.session)
        self._model: ModelFolder = find_model(request.model, self._session.models, *map(Path, request.models))
        self._skipped: set[str] = set()

    def pieces(self) -> Sequence[Piece]:
        """Return a piece for each case, and another for each corrected one."""
        predictions: list[Piece] = [partial(self._prediction, case) for case in self._request.cases]
        if self._request.tune is None:
            return predictions
        return [*predictions, *(partial(self._features, key) for key in self._to_prepare())]

    def _to_prepare(self) -> list[CaseKey]:
        """Return the corrected cases whose values are wanted and not known to be there, most wanted first."""
        corrected = {key.stem: key for key in self._session.corrected_keys()}
        wanted = [corrected.pop(case) for case in self._request.cases if case in corrected]
        latest = sorted(corrected.values(), key=lambda key: -_changed(self._session, key))
        return [key for key in [*wanted, *latest][:_MOST] if self._mark(key) not in self._done]

    def _mark(self, key: CaseKey) -> Done:
        """Return what the values of a case follow from, without reading any of it."""
        assert self._request.tune is not None  # noqa: S101  nothing is prepared otherwise
        settings = self._request.tune.model_dump_json(include=_DECIDING)
        files = tuple((path.name, *_identity(path)) for path in self._session.files_to_tune_on(key))
        return str(self._session.root), self._model.digest, settings, files

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

    def _features(self, key: CaseKey, stop: StopToken) -> Iterator[Any]:
        from napari_pcs.models.device import choose_device
        from napari_pcs.tuning import prepare_case

        config, name = self._request.tune, key.stem
        if config is None or name in self._skipped:
            return
        try:
            mark = self._mark(key)
            device = choose_device(self._request.device)
            prepare_case(self._session, key, self._model, config, device, stop, load=self._networks.copy)
        except (InputError, SessionError) as error:
            yield self._skip(name, error)
        else:
            self._done.add(mark)
            yield Prefetched(case=name, what="features")

    def _skip(self, name: str, error: PcsError) -> Skipped:
        self._skipped.add(name)
        return Skipped(name=name, reason=str(error), count=len(self._skipped), of=len(self._request.cases))


def _changed(session: Session, key: CaseKey) -> int:
    """Return when a case was corrected last."""
    return _identity(session.root / case_file(key, LabelRole.CORRECTED.value, "dseg", segmentation=True))[0]


def _identity(path: Path) -> tuple[int, int]:
    """Return time of change (ns) and size (bytes) of a file; of one that is gone, zeros."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
