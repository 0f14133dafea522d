"""Train the starter model on prepared hemispheres; interrupt and run again to resume.

Two stages of the package's training loop, each in the field of view that the next one needs: patches
(fast, many), then whole hemispheres (the mode in which the model is used; instance normalisation
depends on it). RUN gets a folder of records and checkpoints for each, and in the end
`weights.safetensors`; `finish.py` makes a model of them.

    python scripts/starter/train.py PREPARED RUN [--patches 1600] [--wholes 110]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hemispheres import Hemisphere, Samples, View
from safetensors.torch import save
from torch import nn

from napari_pcs.files import write_bytes, write_json
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig
from napari_pcs.objectives.task import Batch, Outcome, Task
from napari_pcs.stop import StopToken
from napari_pcs.training.checkpoint import read_checkpoint, write_checkpoint
from napari_pcs.training.config import LoopConfig, OptimiserConfig, ScheduleConfig
from napari_pcs.training.events import Event, Saved
from napari_pcs.training.keeper import Keeper
from napari_pcs.training.keeping import LAST
from napari_pcs.training.lock import run_lock
from napari_pcs.training.loop import Loop
from napari_pcs.training.losses import dice_loss, nested_cross_entropy, segmentation_targets
from napari_pcs.training.processes import Processes
from napari_pcs.training.record import RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

SKELETON_WEIGHT, PCS_WEIGHT = 2.0, 3.0
PLAN, WEIGHTS = "plan.json", "weights.safetensors"


@dataclass(frozen=True)
class Stage:
    """How one view is trained.

    Attributes
    ----------
    rate, last_rate
        Learning rate at its highest, and where a cosine leads it.
    warmup
        The step, counted from 1, that is the first at the highest rate.
    save_every
        Steps between two checkpoints.
    """

    view: View
    rate: float
    last_rate: float
    warmup: int
    save_every: int

    def config(self, steps: int) -> LoopConfig:
        """Return the loop's settings: all steps make one epoch, since stages do not end with a round of hemispheres."""
        return LoopConfig(
            epochs=1,
            batch_size=1,
            micro_batch=1,
            optimiser=OptimiserConfig(name="adamw", learning_rate=self.rate, weight_decay=1e-4),
            schedule=ScheduleConfig(
                name="cosine", warmup_epochs=(self.warmup - 1) / steps, factor=self.last_rate / self.rate
            ),
            clip_norm=1.0,
            precision="fp32",
        )


STAGES = (Stage("patches", 2e-3, 3e-4, 50, 50), Stage("wholes", 6e-4, 5e-6, 5, 5))


class WeakLabels(Task):
    """Skeleton and PCS from the extractor's and the rule's labels; rare voxels weigh more."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch, turn: str = "main") -> Outcome:  # noqa: ARG002  there is one turn
        targets = segmentation_targets(batch["labels"])
        logits = self.network(batch["image"]).logits
        overlap = dice_loss(channel_probabilities(logits), targets)
        doubt = nested_cross_entropy(logits, targets, skeleton_weight=SKELETON_WEIGHT, pcs_weight=PCS_WEIGHT)
        return Outcome(overlap + doubt, figures={"dice_loss": overlap.detach(), "cross_entropy": doubt.detach()})


class Checkpoints(Keeper):
    """Writes a checkpoint every few steps and at the end."""

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every = path, every

    def stepped(self, loop: Loop) -> Iterator[Event]:
        if loop.position.step % self._every == 0:
            yield self._save(loop)

    def epoch_over(self, loop: Loop, batch: Batch) -> Iterator[Event]:  # noqa: ARG002  the signature is the keeper's
        yield self._save(loop)

    def _save(self, loop: Loop) -> Saved:
        write_checkpoint(self._path, loop.task, loop.optimisers, loop.position)
        return Saved(step=loop.position.step, path=str(self._path), best=False)


def split(paths: list[Path], people: int) -> tuple[list[Path], list[Path]]:
    """Hold out so many whole people, chosen by a fixed permutation."""
    names = sorted({p.stem.split("_")[0] for p in paths})
    held = {names[i] for i in np.random.default_rng(2026).permutation(len(names))[:people]}
    return [p for p in paths if p.stem.split("_")[0] not in held], [p for p in paths if p.stem.split("_")[0] in held]


def train_stage(network: nn.Module, stage: Stage, samples: Samples, run: Path) -> None:
    """Train a stage from its last checkpoint, or from the weights that the network has."""
    folder, config = run / stage.view, stage.config(samples.steps_per_epoch)
    checkpoint = folder / LAST
    keeper = Checkpoints(checkpoint, stage.save_every)
    loop = Loop(WeakLabels(network), samples, config, Processes("cpu"), keeper, StopToken())
    if checkpoint.exists():
        loop.position = read_checkpoint(checkpoint, loop.task, loop.optimisers)
        record = RunRecord.reopen(folder, after_step=loop.position.step)
    else:
        record = RunRecord(folder, config)
    print(f"{stage.view}: step {loop.position.step} of {loop.total_steps}", flush=True)
    for event in loop.events():
        record.add(event)
        if isinstance(event, Saved):
            print(f"{stage.view}: step {event.step} of {loop.total_steps} saved", flush=True)


def train(paths: list[Path], run: Path, lengths: dict[View, int]) -> None:
    """Train all stages, each from the weights of the one before."""
    torch.manual_seed(0)
    network = MultiTaskSwinUNETR(SwinUNETRConfig(feature_size=12, window_size=4))
    hemispheres = [Hemisphere.load(p) for p in paths]
    first = 0
    for stage in STAGES:
        steps = lengths[stage.view]
        train_stage(network, stage, Samples(hemispheres, stage.view, first, steps), run)
        first += steps
    write_bytes(run / WEIGHTS, save({name: t.detach().contiguous() for name, t in network.state_dict().items()}))


def keep_to(plan: dict[str, Any], path: Path) -> None:
    """Write what is trained on what; a run that is resumed must be the same."""
    if not path.exists():
        write_json(path, plan)
    elif json.loads(path.read_text()) != plan:
        msg = f"{path}: found a run of other lengths or hemispheres, expected the same. Choose another folder."
        raise SystemExit(msg)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--patches", type=int, default=1600, help="steps of the first stage")
    parser.add_argument("--wholes", type=int, default=110, help="steps of the second stage")
    parser.add_argument("--held-out", type=int, default=9, help="people to judge the model by")
    args = parser.parse_args()
    lengths: dict[View, int] = {"patches": args.patches, "wholes": args.wholes}
    training, held_out = split(sorted(args.prepared.glob("*.npz")), args.held_out)
    names = {"train": [p.stem for p in training], "held_out": [p.stem for p in held_out]}
    with run_lock(args.run):
        keep_to({"steps": lengths, **names}, args.run / PLAN)
        train(training, args.run, lengths)


if __name__ == "__main__":
    main()
