"""Small tasks whose losses can be checked by hand, and batches for them."""

import torch
from torch import nn

from napari_pcs.objectives.task import Comparison, Outcome, Task
from napari_pcs.stop import StopToken
from napari_pcs.training.batches import Drawn
from napari_pcs.training.config import LoopConfig, OptimiserConfig, ScheduleConfig
from napari_pcs.training.keeper import Keeper
from napari_pcs.training.loop import Loop
from napari_pcs.training.processes import Processes


class Line(Task):
    """Mean squared error of a line: each sample by itself."""

    def __init__(self, width=3):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(width, 1)

    def forward(self, batch, turn="main"):
        error = (self.line(batch["x"])[:, 0] - batch["y"]) ** 2
        return Outcome(error.mean(), figures={"error": error.detach().sqrt().mean()})


class Apart(Task):
    """Embeddings that are to lie far from one another, on top of a loss of their own."""

    compares = True

    def __init__(self, width=3):
        super().__init__()
        torch.manual_seed(1)
        self.line, self.head = nn.Linear(width, 2), nn.Linear(2, 2)

    def forward(self, batch, turn="main"):
        found = self.line(batch["x"])
        return Outcome(found.square().mean(), found, {"size": found.detach().norm(dim=1).mean()})

    def compare(self, embedding, turn="main"):
        found = self.head(embedding)
        distances = (found[:, None] - found[None]).square().sum(dim=2)
        return Comparison(torch.exp(-distances).mean(), {"near": torch.exp(-distances).mean()})


class Turns(Task):
    """Two weights that take turns: the second one in every other epoch."""

    def __init__(self):
        super().__init__()
        self.often, self.seldom = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def turns(self, epoch):
        return ("seldom", "often") if epoch % 2 == 0 else ("often",)

    def all_turns(self):
        return ("seldom", "often")

    def parameters_of(self, turn):
        return [getattr(self, turn)]

    def forward(self, batch, turn="main"):
        return Outcome(((self.often + self.seldom) * batch["x"].mean()).square().mean(), figures={f"loss_{turn}": 1.0})


class Numbers:
    """Batches of random numbers that follow from the epoch and the step."""

    def __init__(self, steps=4, size=6, width=3, held_out=0):
        self.steps_per_epoch, self.size, self.width, self.held_out = steps, size, width, held_out

    def batch(self, *seed):
        generator = torch.Generator().manual_seed(hash(seed))
        x = torch.randn((self.size, self.width), generator=generator)
        return {"x": x, "y": x.sum(dim=1) + 1}

    def epoch(self, epoch, first_step=0):
        for step in range(first_step, self.steps_per_epoch):
            yield Drawn(self.batch(epoch, step))

    def validation(self):
        for step in range(self.held_out):
            yield Drawn(self.batch(99, step))


def settings(**changes):
    common = {
        "epochs": 3,
        "batch_size": 6,
        "optimiser": OptimiserConfig(name="adam", learning_rate=0.05),
        "schedule": ScheduleConfig(name="constant"),
    }
    return LoopConfig(**{**common, **changes})


def make_loop(task, batches=None, keeper=None, stop=None, **changes):
    return Loop(
        task, batches or Numbers(), settings(**changes), Processes("cpu"), keeper or Keeper(), stop or StopToken()
    )
