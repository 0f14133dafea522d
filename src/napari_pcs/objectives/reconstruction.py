"""Reconstruction: give back the image, judged by structural similarity."""

from __future__ import annotations

from napari_pcs.objectives.autoencoding import Autoencoding
from napari_pcs.objectives.ssim import ssim_loss
from napari_pcs.objectives.task import Batch, Outcome

__all__ = ["Reconstruction"]


class Reconstruction(Autoencoding):
    """Simple reconstruction (Mamalakis et al., eq. 1 and 2): the loss is 1 - SSIM.

    The paper's networks learn "to reconstruct the input as an output". A decoder with skip
    connections from full resolution can do that by passing its input on, and its encoder then need
    not learn anything; so blocks of what the network sees are noise here, and it has to find what
    was there. `masked_share` = 0 is the paper's own.
    """

    name = "reconstruction"
    title = "Reconstruction"

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn only
        """Compare what was found with the image."""
        found = self.reconstruct(batch).found
        loss = ssim_loss(found, batch["image"])
        return Outcome(loss, figures=self.quality(found, batch["image"]))
