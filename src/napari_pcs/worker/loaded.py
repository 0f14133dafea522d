"""The networks that were used last, in memory, so that the next request need not load them."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.case import Case
    from napari_pcs.inference.choose import Engines
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.stop import StopToken

__all__ = ["LoadedNetworks"]

_MOST = 2
"""The model in use, and the one that it was tuned from or is compared with."""


class LoadedNetworks:
    """Networks by the digest of their weights, and what runs them; the least recently used one goes first.

    They stay on the CPU; what runs one on a GPU has a copy there, which may be lost with it.
    """

    def __init__(self) -> None:
        self._networks: OrderedDict[str, Segmenter] = OrderedDict()
        self._engines: dict[str, Engines] = {}

    def get(self, model: ModelFolder) -> Segmenter:
        """Return a model's network, read if it is not in memory; its heads may be untrained.

        Raises
        ------
        ModelError
            If it cannot be loaded.
        """
        from napari_pcs.models.store import load_segmenter

        digest = model.digest
        if digest not in self._networks:
            # Room comes first: two networks and a third one may be more than fits.
            while len(self._networks) >= _MOST:
                self._engines.pop(self._networks.popitem(last=False)[0], None)
            self._networks[digest] = load_segmenter(model, to_tune=True)
        self._networks.move_to_end(digest)
        return self._networks[digest]

    def copy(self, model: ModelFolder) -> Segmenter:
        """Return a copy of a model's network, to be trained: what is kept stays as it is."""
        return deepcopy(self.get(model))

    def warm(self, model: ModelFolder, device: str, stop: StopToken) -> Iterator[Any]:
        """Load a model, bring it to its device, and find out what runs it.

        Yields
        ------
        Stage
            If it takes a moment.

        Raises
        ------
        ModelError
            If it cannot be loaded or has no trained heads, or there is no such device.
        CancelledError
            Soon after `stop` is set.
        """
        yield from self._loading(model)
        engines = self._engines_of(model, device)
        engines.place()
        engines.try_out(stop)

    def predict(
        self, model: ModelFolder, case: Case, device: str, stop: StopToken, *, idle: bool = False
    ) -> Iterator[Any]:
        """Predict a case, loading the model if need be.

        Parameters
        ----------
        idle
            Nobody waits for it; see `napari_pcs.predict.predict_steps`.

        Yields
        ------
        Stage or Prediction
            The prediction comes last.
        """
        from napari_pcs.predict import predict_steps

        yield from self._loading(model)
        engines = self._engines_of(model, device)
        engines.place()
        yield from predict_steps(
            case, engines.network, model.reference, engines.device, engines=engines, idle=idle, stop=stop
        )

    def clear(self) -> None:
        """Let go of all."""
        self._networks.clear()
        self._engines.clear()

    def _loading(self, model: ModelFolder) -> Iterator[Any]:
        from napari_pcs.prediction import Stage

        model.require_trained_heads()
        if model.digest not in self._networks:
            yield Stage("prepare", f"Loading {model.name}")
        self.get(model)

    def _engines_of(self, model: ModelFolder, device: str) -> Engines:
        from napari_pcs.inference.choose import Engines
        from napari_pcs.models.device import choose_device

        network, where = self.get(model), choose_device(device)
        known = self._engines.get(model.digest)
        if known is None or known.device != where:
            known = self._engines[model.digest] = Engines(network, model.digest, where)
        return known
