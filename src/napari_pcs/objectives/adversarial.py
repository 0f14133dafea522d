"""Adversarial learning: a reconstruction that is similar and that a discriminator takes for an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from monai.networks.nets import PatchDiscriminator
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from napari_pcs.errors import ModelError
from napari_pcs.objectives.autoencoding import Autoencoding
from napari_pcs.objectives.corruption import CorruptionConfig
from napari_pcs.objectives.ssim import ssim_loss
from napari_pcs.objectives.task import Batch, Outcome

if TYPE_CHECKING:
    from napari_pcs.models.contract import Network
    from napari_pcs.objectives.base import ObjectiveConfig

__all__ = ["Adversarial", "AdversarialConfig"]

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
_LAYERS = 3


class AdversarialConfig(CorruptionConfig):
    """Settings of the discriminator, and of what the generator is given."""

    cadence: int = Field(
        1,
        ge=1,
        le=100,
        title="Cadence",
        description="n: the generator trains in every n-th epoch, the discriminator in every (n + 1)-th.",
    )
    discriminator_channels: int = Field(
        32,
        ge=4,
        le=128,
        title="Discriminator",
        description="Channels of the discriminator's first layer; each of the three that follow has twice as many.",
    )


class Adversarial(Autoencoding):
    """Adversarial learning (Mamalakis et al., eq. 4 to 6).

    The network is the generator: it reconstructs an image as in `Reconstruction`. The discriminator
    looks at pieces of an image (PatchGAN, Isola et al. 2017) and says of each whether it is of a real
    image (1) or of a reconstruction (0).

    "The discriminator loss is backpropagated every n+1 epochs, while the generator and the total
    loss are updated every n epochs": counted from 0, the generator trains in epochs that are multiples
    of n and the discriminator in multiples of n + 1, both in epoch 0 and then the discriminator
    first in each step. For n = 1 the generator trains always and the discriminator in every second
    epoch. For n > 1 there would be epochs in which nothing trains; they are left out and the next
    one takes their place.
    """

    name = "adversarial"
    title = "Adversarial"
    config_class = AdversarialConfig
    config: AdversarialConfig

    def __init__(self, network: Network, config: ObjectiveConfig) -> None:
        super().__init__(network, config)
        # Instance normalisation, and none across samples: a batch may be spread over many devices.
        self.discriminator = PatchDiscriminator(
            spatial_dims=3,
            channels=self.config.discriminator_channels,
            in_channels=network.config.image_channels,
            num_layers_d=_LAYERS,
            norm="INSTANCE",
        )

    def turns(self, epoch: int) -> tuple[str, ...]:
        """Return who trains in an epoch, the discriminator first."""
        often, seldom = self.config.cadence, self.config.cadence + 1
        due = [e for e in range(often * seldom) if e % often == 0 or e % seldom == 0]
        now = due[epoch % len(due)]
        return ((DISCRIMINATOR,) if now % seldom == 0 else ()) + ((GENERATOR,) if now % often == 0 else ())

    def all_turns(self) -> tuple[str, ...]:
        """Return both turns."""
        return DISCRIMINATOR, GENERATOR

    def parameters_of(self, turn: str) -> list[nn.Parameter]:
        """Return the discriminator's weights, or those of the network and of the head that reads the image."""
        modules = {DISCRIMINATOR: (self.discriminator,), GENERATOR: (self.network, self.to_image)}
        return [p for module in modules[self._known(turn)] for p in module.parameters() if p.requires_grad]

    def forward(self, batch: Batch, turn: str = GENERATOR) -> Outcome:
        """Return the loss of whose turn it is; the weights of the other one get no gradient.

        Raises
        ------
        ModelError
            If there is no such turn.
        """
        return self._discriminate(batch) if self._known(turn) == DISCRIMINATOR else self._generate(batch)

    def _known(self, turn: str) -> str:
        if turn not in self.all_turns():
            msg = f"Objective {self.name}: found the turn {turn}, expected one of: {', '.join(self.all_turns())}."
            raise ModelError(msg)
        return turn

    def _discriminate(self, batch: Batch) -> Outcome:
        with torch.no_grad():
            found = self.reconstruct(batch).found
        fake, real = self._judge(found), self._judge(batch["image"])
        loss = (_cross_entropy(fake, 0) + _cross_entropy(real, 1)) / 2
        accuracy = ((fake < 0).float().mean() + (real > 0).float().mean()) / 2
        return Outcome(loss, figures={"loss_disc": loss.detach(), "accuracy_disc": accuracy})

    def _generate(self, batch: Batch) -> Outcome:
        found, image = self.reconstruct(batch).found, batch["image"]
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        loss_rec = ssim_loss(found, image)
        loss_gen = _cross_entropy(self._judge(found, fixed), 1)
        figures = {"loss_rec": loss_rec.detach(), "loss_gen": loss_gen.detach(), **self.quality(found, image)}
        return Outcome(loss_rec + loss_gen, figures=figures)

    def _judge(self, image: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """Return logits (batch, 1, pieces along x, y, z) of *real*, with these or the discriminator's own weights."""
        layers = functional_call(self.discriminator, weights or {}, (image,))
        return cast("Tensor", layers[-1]).float()


def _cross_entropy(logits: Tensor, real: int) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))
