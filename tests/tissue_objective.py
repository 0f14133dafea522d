"""An objective in a file outside the package, cheap enough for whole runs: the stem learns how much tissue there is."""

import torch
from pydantic import Field
from torch import nn

from napari_pcs.objectives import Objective, ObjectiveConfig
from napari_pcs.objectives.task import Outcome


class TissueConfig(ObjectiveConfig):
    """How much noise the network sees."""

    noise: float = Field(0.1, ge=0, le=1, title="Noise", description="Standard deviation; tissue is 0 to 1.")


class Tissue(Objective):
    """Tell the share of tissue in a noisy patch."""

    name = "tissue"
    title = "Tissue"
    config_class = TissueConfig
    trained_parts = ("stem",)

    def __init__(self, network, config):
        super().__init__(network, config)
        self.line = nn.Linear(1, 1)

    @classmethod
    def sample(cls, patch, size, config, rng):
        # Noise from both generators: both are to be seeded for each sample.
        noise = torch.randn(patch.image.shape).numpy() * rng.uniform(0.5, 1.5)
        return {"image": patch.image + (config.noise * noise).astype("float32"), "target": patch.image.mean()}

    def forward(self, batch, turn="main"):
        image = self.network_image(batch["image"])
        sums = [module(image).flatten(1).mean(dim=1) for _, module in self.network.modules_of("stem")]
        found = self.line(torch.stack(sums).sum(dim=0)[:, None])[:, 0]
        error = (found - batch["target"]).square()
        return Outcome(error.mean(), figures={"error": error.detach().sqrt().mean()})
