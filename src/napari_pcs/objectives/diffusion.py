"""Diffusion: find the noise in a noisy image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from napari_pcs.errors import InputError, ModelError
from napari_pcs.models.diffusion_unet import (
    CONDITION_TOKENS,
    DiffusionUNet,
    from_diffusion_range,
    to_diffusion_range,
)
from napari_pcs.objectives.base import Objective, ObjectiveConfig
from napari_pcs.objectives.noising import NoiseSchedule, ScheduleName
from napari_pcs.objectives.ssim import ssim
from napari_pcs.objectives.task import Outcome

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from napari_pcs.data.patch import Patch
    from napari_pcs.models.contract import Network
    from napari_pcs.objectives.task import Batch

__all__ = ["Diffusion", "DiffusionConfig"]

_PLACE_HIDDEN = 64


class DiffusionConfig(ObjectiveConfig):
    """How the noise is made, what the network is told beside the noisy image, and how it is judged."""

    train_steps: int = Field(1000, ge=2, le=10_000, title="Time steps", description="From image to noise.")
    schedule: ScheduleName = Field(
        "scaled_linear", title="Noise schedule", description="scaled_linear: standard deviations grow linearly."
    )
    beta_start: float = Field(5e-3, gt=0, lt=1, title="First beta", description="Variance that the first step adds.")
    beta_end: float = Field(2e-2, gt=0, lt=1, title="Last beta", description="Variance that the last step adds.")
    inference_steps: int = Field(25, ge=1, le=10_000, title="Inference steps", description="From noise to an image.")
    condition: Literal["none", "position"] = Field(
        "none", title="Condition", description="position: the network is told where in the hemisphere the patch lies."
    )
    condition_dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        title="Without condition",
        description="Share of patches whose condition is held back, since segmentation will have none.",
    )
    loss: Literal["noise", "ssim", "both"] = Field(
        "noise",
        title="Loss",
        description="noise: mean squared error of the noise; ssim: 1 - SSIM of the image that follows from it.",
    )
    ssim_share: float = Field(
        0.5, ge=0, le=1, title="Share of SSIM", description="Of 1 - SSIM in 'both'; the rest is that of the noise."
    )
    picture_step: int = Field(
        250, ge=0, lt=10_000, title="Time step of pictures", description="How noisy the patches in pictures are."
    )

    @model_validator(mode="after")
    def _steps_in_order(self) -> Self:
        if self.beta_start >= self.beta_end:
            msg = f"beta_end: found {self.beta_end}, expected more than beta_start, {self.beta_start}"
            raise ValueError(msg)
        if max(self.inference_steps, self.picture_step + 1) > self.train_steps:
            msg = f"inference_steps and picture_step: expected no more than the {self.train_steps} of train_steps"
            raise ValueError(msg)
        return self


class Diffusion(Objective):
    """Denoising diffusion (Ho, Jain and Abbeel 2020) as pre-training of a U-Net.

    The default loss is the mean squared error of the noise (their eq. 14). The paper on the PCS
    takes its eq. 2, 1 - SSIM, "for diffusion denoising" without saying between what; SSIM of noise
    has no meaning, so "ssim" compares the clean image with the one that follows from the estimated
    noise. It has hardly a gradient at late time steps, whose estimates fall outside the image's
    range, which is why it is not the default; it is told as a figure in any case.

    A condition that is computed from the clean image would answer the question. Here it can be the
    place of the patch, which is known without looking at a voxel, or none.
    """

    name = "diffusion"
    title = "Diffusion"
    config_class = DiffusionConfig
    network_class = DiffusionUNet
    config: DiffusionConfig
    network: DiffusionUNet

    def __init__(self, network: Network, config: ObjectiveConfig) -> None:
        super().__init__(network, config)
        c = self.config
        self.schedule = NoiseSchedule(c.schedule, c.train_steps, c.beta_start, c.beta_end)
        if c.condition == "position":
            dim = self.network.config.cross_attention_dim
            if dim is None:
                msg = (
                    f"Objective {self.name}: found a network without cross-attention, expected one to tell a position"
                    " to. Choose condition none, or a network with cross_attention_dim."
                )
                raise ModelError(msg)
            self.place_tokens = nn.Sequential(
                nn.Linear(3, _PLACE_HIDDEN),
                nn.SiLU(),
                nn.Linear(_PLACE_HIDDEN, CONDITION_TOKENS * dim),
                nn.Unflatten(1, (CONDITION_TOKENS, dim)),
            )

    @classmethod
    def sample(
        cls,
        patch: Patch,
        size: tuple[int, ...],  # noqa: ARG003  `region` asks for patches of just this size
        config: ObjectiveConfig,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[np.generic]]:
        """Return the patch as `image`, its `noise` and `timestep`, and its `position` if it has one.

        With a condition also `place`, the mean position (3,) in `NetworkGrid.position`'s units, and
        whether the network is told, `conditioned`.

        Raises
        ------
        InputError
            If the condition is a position that the patch does not have.
        """
        c = cast("DiffusionConfig", config)
        found: dict[str, NDArray[np.generic]] = {
            "image": patch.image,
            "noise": rng.standard_normal(patch.image.shape, dtype=np.float32),
            "timestep": np.asarray(rng.integers(c.train_steps), dtype=np.int64),
        }
        if patch.position is not None:
            found["position"] = patch.position
        if c.condition == "position":
            if patch.position is None:
                raise InputError(
                    found="a patch that lies nowhere in particular",
                    expected="one with a position, to be the condition",
                    advice="Choose condition none.",
                    path=patch.source,
                )
            found["place"] = patch.position.mean(axis=(1, 2, 3), dtype=np.float32)
            found["conditioned"] = np.asarray(rng.random() >= c.condition_dropout)
        return found

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn only
        """Estimate each patch's noise."""
        noise, timesteps = batch["noise"], batch["timestep"]
        noisy = self.schedule.add_noise(to_diffusion_range(batch["image"]), noise, timesteps)
        found = self.estimate(noisy, timesteps, batch)
        error = (found - noise).square().mean()
        with torch.set_grad_enabled(self.config.loss != "noise" and torch.is_grad_enabled()):
            clean = self.schedule.clean_from(noisy, found, timesteps).clamp(-1, 1)
            similarity = ssim(from_diffusion_range(clean), batch["image"]).mean()
        share = {"noise": 0.0, "ssim": 1.0, "both": self.config.ssim_share}[self.config.loss]
        loss = (1 - share) * error + share * (1 - similarity)
        return Outcome(loss, figures={"noise_mse": error.detach(), "ssim": similarity.detach()})

    def estimate(self, noisy: Tensor, timesteps: Tensor, known: Batch) -> Tensor:
        """Return the noise (batch, channel, x, y, z) that the network finds, in float32.

        Parameters
        ----------
        noisy
            (batch, channel, x, y, z), about [-1, 1].
        timesteps
            (batch,).
        known
            Of it only `position`, `place` and `conditioned` are looked at, never the clean image.
        """
        condition = None
        if self.config.condition == "position":
            tokens = self.place_tokens(known["place"])
            nothing = cast("Tensor", self.network.unconditioned(len(noisy)))
            condition = torch.where(known["conditioned"][:, None, None], tokens, nothing)
        return self.network.denoise(self.network_image(noisy, known.get("position")), timesteps, condition).float()

    @torch.no_grad()
    def restore(self, noisy: Tensor, timestep: int, known: Batch) -> Tensor:
        """Return clean images (batch, channel, x, y, z) in [-1, 1], found in steps without new noise.

        Parameters
        ----------
        noisy
            (batch, channel, x, y, z): images of that time step, or pure noise for the last one.
        timestep
            How noisy they are; of the `inference_steps` those before it are taken.
        known
            As in `estimate`.
        """
        for start, end in self.schedule.way_back(self.config.inference_steps, timestep):
            at = torch.full((len(noisy),), start, device=noisy.device)
            noisy = self.schedule.step_back(noisy, self.estimate(noisy, at, known), start, end)
        return noisy

    @torch.no_grad()
    def picture(self, batch: Batch) -> Tensor:
        """Return (batch, 3, x, y, z) around [0, 1]: noisy, clean and restored; the mean of several channels."""
        clean, step = to_diffusion_range(batch["image"]), self.config.picture_step
        noisy = self.schedule.add_noise(clean, batch["noise"], torch.full_like(batch["timestep"], step))
        images = (noisy, clean, self.restore(noisy, step, batch))
        return torch.stack([from_diffusion_range(image).float().mean(dim=1) for image in images], dim=1)
