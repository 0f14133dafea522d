"""What all objectives share that let a network give an image back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from napari_pcs.objectives.base import Objective
from napari_pcs.objectives.corruption import CorruptionConfig, corrupted
from napari_pcs.objectives.ssim import multi_scale_ssim, ssim

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.data.patch import Patch
    from napari_pcs.models.contract import Network, Segmenter
    from napari_pcs.objectives.base import ObjectiveConfig
    from napari_pcs.objectives.task import Batch

__all__ = ["Autoencoding", "Reconstructed"]


class Reconstructed(NamedTuple):
    """What a network made of an image.

    Attributes
    ----------
    found
        (batch, channel, x, y, z) float32 in [0, 1].
    encoded
        The encoder's outputs; `Segmenter.pool` turns the last of them into an embedding.
    """

    found: Tensor
    encoded: list[Tensor]


class Autoencoding(Objective):
    """An objective with a head that reads an image off the decoder's features.

    A batch holds `image`, what is to be found; `given`, what the network sees of it; and `position`
    where the patch has one. The head is a 1 x 1 x 1 convolution and a sigmoid: tissue lies in [0, 1],
    the range that the constants of SSIM are made for, and neither SSIM nor a discriminator would
    otherwise hold a reconstruction to it.
    """

    config_class = CorruptionConfig
    config: CorruptionConfig
    network: Segmenter

    def __init__(self, network: Network, config: ObjectiveConfig) -> None:
        super().__init__(network, config)
        self.to_image = nn.Conv3d(self.network.decoded_channels, network.config.image_channels, 1)

    @classmethod
    def sample(
        cls,
        patch: Patch,
        size: tuple[int, ...],  # noqa: ARG003  `region` asks for patches of just this size
        config: ObjectiveConfig,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[np.generic]]:
        """Return the patch as `image`, with blocks of noise as `given`, and its `position` if it has one."""
        given = corrupted(patch.image, cast("CorruptionConfig", config), rng)
        sample: dict[str, NDArray[np.generic]] = {"image": patch.image, "given": given}
        return sample if patch.position is None else {**sample, "position": patch.position}

    def reconstruct(self, batch: Batch) -> Reconstructed:
        """Encode and decode `given` (batch, channel, x, y, z), with `position` where the batch has it."""
        encoded = self.network.encode(self.network_image(batch["given"], batch.get("position")))
        return Reconstructed(torch.sigmoid(self.to_image(self.network.decode(encoded)).float()), encoded)

    @torch.no_grad()
    def quality(self, found: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Return SSIM, multi-scale SSIM and mean absolute error of reconstructions, means over the batch."""
        return {
            "ssim": ssim(found, image).mean(),
            "ms_ssim": multi_scale_ssim(found, image).mean(),
            "l1": (found - image).abs().mean(),
        }

    @torch.no_grad()
    def picture(self, batch: Batch) -> Tensor:
        """Return (batch, 3, x, y, z): given, looked for and found; the mean where images have several channels."""
        images = (batch["given"], batch["image"], self.reconstruct(batch).found)
        return torch.stack([image.float().mean(dim=1) for image in images], dim=1)
