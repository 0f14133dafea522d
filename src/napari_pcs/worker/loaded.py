"""The networks that were used last, in memory, so that the next request need not load them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.case import Case
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.stop import StopToken

__all__ = ["LoadedNetworks"]

_MOST = 2
"""The model in use, and the one that it was tuned from or is compared with."""


class LoadedNetworks:
    """Networks by the digest of their weights; the least recently used one goes first."""

    def __init__(self) -> None:
        self._networks: OrderedDict[str, Segmenter] = OrderedDict()

    def get(self, model: ModelFolder) -> Segmenter:
        """Return a model's network, read if it is not in memory.

        Raises
        ------
        ModelError
            If it cannot be loaded, or has no trained heads.
        """
        from napari_pcs.models.store import load_segmenter

        digest = model.digest
        if digest not in self._networks:
            # Room comes first: two networks and a third one may be more than fits.
            while len(self._networks) >= _MOST:
                self._networks.popitem(last=False)
            self._networks[digest] = load_segmenter(model)
        self._networks.move_to_end(digest)
        return self._networks[digest]

    def warm(self, model: ModelFolder, device: str) -> Iterator[Any]:
        """Load a model and bring it to its device.

        Yields
        ------
        Stage
            If it takes a moment.
        """
        from napari_pcs.models.device import choose_device
        from napari_pcs.predict import Stage

        if model.digest not in self._networks:
            yield Stage("prepare", f"Loading {model.name}")
        self.get(model).to(choose_device(device))

    def predict(self, model: ModelFolder, case: Case, device: str, stop: StopToken) -> Iterator[Any]:
        """Predict a case, loading the model if need be.

        Yields
        ------
        Stage or Prediction
            The prediction comes last.
        """
        from napari_pcs.models.device import choose_device
        from napari_pcs.predict import predict_steps

        yield from self.warm(model, device)
        yield from predict_steps(case, self.get(model), model.reference, choose_device(device), stop=stop)

    def clear(self) -> None:
        """Let go of all."""
        self._networks.clear()
