"""How an image becomes noise in many small steps, and the way back in a few."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from monai.networks.schedulers import DDIMScheduler
from torch import Tensor, nn

__all__ = ["NoiseSchedule", "ScheduleName"]

ScheduleName = Literal["scaled_linear", "linear"]


class NoiseSchedule(nn.Module):
    """Variances of the forward process of Ho et al. (2020), as MONAI computes them.

    Images are those of the diffusion, in [-1, 1] where they are clean; time steps count from 0,
    hardly any noise, to `steps` - 1.

    Parameters
    ----------
    name
        "scaled_linear": the square roots of the variances grow linearly; "linear": they themselves.
    steps
        Of the forward process.
    beta_start, beta_end
        Variance of the noise that the first and the last step add.
    """

    kept: Tensor

    def __init__(self, name: ScheduleName, steps: int, beta_start: float, beta_end: float) -> None:
        super().__init__()
        self.steps = steps
        self._scheduler = DDIMScheduler(steps, schedule=f"{name}_beta", beta_start=beta_start, beta_end=beta_end)
        self.register_buffer("kept", self._scheduler.alphas_cumprod.clone(), persistent=False)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return images after some time steps (batch,): Ho et al. (2020), eq. 4, with the noise given."""
        kept = self._kept(timesteps, clean)
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def clean_from(self, noisy: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean images that these noisy ones are of if this is their noise; the inverse of `add_noise`.

        An estimate for a late step may lie far from [-1, 1]: what is left of the image there is
        scaled up several hundred times, and so is the error of the noise.
        """
        kept = self._kept(timesteps, noisy)
        return (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()

    def way_back(self, count: int, start: int) -> list[tuple[int, int]]:
        """Return pairs of time steps, from and to, that lead from `start` to the clean image.

        The steps are those of MONAI's schedulers, evenly spread from the last one to 0, of which
        those before `start` are used; the clean image is -1.

        Parameters
        ----------
        count
            Steps that the whole way would have, from pure noise.
        start
            Time step where it begins.
        """
        self._scheduler.set_timesteps(count)
        stops = [start, *(t for t in self._scheduler.timesteps.tolist() if t < start), -1]
        return list(pairwise(stops))

    def step_back(self, noisy: Tensor, noise: Tensor, start: int, end: int) -> Tensor:
        """Go from one time step to an earlier one (-1: the clean image), without new noise.

        Song, Meng and Ermon (2021), eq. 12 with sigma = 0, the estimate of the clean image kept
        within [-1, 1]. MONAI's own scheduler always steps by `steps // count`, which is not how far
        apart its time steps are (40 where they are 41 or 42 apart for 25 of 1000), so that each
        image would have another amount of noise than the network is told.
        """
        at = torch.full((len(noisy),), start, device=noisy.device)
        clean = self.clean_from(noisy, noise, at).clamp(-1, 1)
        return clean if end < 0 else self.add_noise(clean, noise, torch.full_like(at, end))

    def _kept(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.kept[timesteps].reshape(-1, *[1] * (like.ndim - 1))
