"""The mean of the weights along a training, which is better than the last of them while the step size stays."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

__all__ = ["PolynomialAverage"]

_DECAY = 3.0


class PolynomialAverage:
    """Running mean of weights in which later steps count for more.

    After step t it is (1 - (d + 1)/(t + d)) times the mean before plus (d + 1)/(t + d) times the weights
    (Shamir and Zhang 2013, eq. 4, with d = 3 for their eta). It is as good at any step as if training had
    been meant to end there, whereas a falling learning rate has to know the last step.

    Parameters
    ----------
    weights
        What trains; on its device, and never copied to another.
    decay
        d: 0 counts all steps the same.
    """

    def __init__(self, weights: Iterable[nn.Parameter], decay: float = _DECAY) -> None:
        self._weights = [weight for weight in weights if weight.requires_grad]
        self._decay = decay
        self._steps = 0
        self._means: list[Tensor] = []

    def add(self) -> None:
        """Count the weights as they are after a step."""
        self._steps += 1
        if not self._means:
            self._means = [weight.detach().clone() for weight in self._weights]
            return
        share = (self._decay + 1) / (self._steps + self._decay)
        with torch.no_grad():
            for mean, weight in zip(self._means, self._weights, strict=True):
                mean.lerp_(weight, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the mean in the place of the weights meanwhile; before the first step they are as they are."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        if self._means:
            for n, weight in enumerate(self._weights):
                weight.data, self._means[n] = self._means[n], weight.data
