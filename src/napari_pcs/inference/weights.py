"""A network's weights by name, with an account of which were used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_pcs.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

__all__ = ["UnknownWeightsError", "Weights"]

_OF_NO_PASS = ("class_head.",)
"""Weights that the caller of a pass applies."""


class UnknownWeightsError(ModelError):
    """A network has other weights than those that its kind has."""


class Weights:
    """Weights of a network, or those below one of its modules, as float32 arrays.

    Parameters
    ----------
    network
        Its weights are read when asked for.
    """

    def __init__(self, network: nn.Module) -> None:
        self._state = network.state_dict()
        self._used: set[str] = set()
        self._prefix = ""

    def below(self, module: str) -> Weights:
        """Return the weights of a module; what is used of them counts as used."""
        found = object.__new__(Weights)
        found._state, found._used, found._prefix = self._state, self._used, f"{self._prefix}{module}."
        return found

    def __contains__(self, name: str) -> bool:
        return f"{self._prefix}{name}" in self._state

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return a weight.

        Raises
        ------
        UnknownWeightsError
            If there is none of that name.
        """
        full = f"{self._prefix}{name}"
        if full not in self._state:
            msg = _sentence(f"no weight {full}")
            raise UnknownWeightsError(msg)
        self._used.add(full)
        return np.asarray(self._state[full].detach().cpu().float().numpy())

    def whole(self, name: str) -> NDArray[np.int64]:
        """Return a buffer of whole numbers."""
        return self[name].astype(np.int64)

    def require_all_used(self) -> None:
        """Refuse a network of whose weights some were not used.

        Raises
        ------
        UnknownWeightsError
            It names one of them.
        """
        left = sorted(name for name in self._state.keys() - self._used if not name.startswith(_OF_NO_PASS))
        if left:
            msg = _sentence(f"the weight {left[0]}")
            raise UnknownWeightsError(msg)


def _sentence(found: str) -> str:
    return f"Found {found}, expected the weights of a plain network; PyTorch runs any other."
