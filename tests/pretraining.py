"""Runs of pre-training that take a second or two."""

import json
from pathlib import Path

from napari_pcs.data.sources import open_data
from napari_pcs.data.splits import people_to_hold_out
from napari_pcs.training.batches import PatchBatches
from napari_pcs.training.events import Epoch, Step
from napari_pcs.training.plan import PretrainPlan, load_objective_file
from napari_pcs.training.pretrain import pretrain
from napari_pcs.training.processes import Processes
from napari_pcs.training.recipes import merged, read_recipe, stage_config

TISSUE = Path(__file__).with_name("tissue_objective.py")
PATCH = (64, 32, 32)


def stage(objective="tissue", dims=3, **changes):
    """Settings of the quick recipe with changes, in single precision and without looking for a micro-batch."""
    if objective == "tissue":
        load_objective_file(TISSUE)
    common = {"loop": {"epochs": 2, "batch_size": 2, "micro_batch": 2, "precision": "fp32"}, "picture_epochs": 100}
    return stage_config(merged(merged(read_recipe("quick").settings(objective, dims), common), changes))


def plan(root, data, config=None, *, name="mine", init=None):
    config = config or stage()
    file = TISSUE if config.objective == "tissue" else None
    return PretrainPlan(data=data, model=root / "models" / name, init=init, objective_file=file, stage=config)


def start(root, data, config=None, *, name="mine", init=None, run="run", **options):
    """Return the events of a stage, to be gone through."""
    return pretrain(root / run, plan(root, data, config, name=name, init=init), Processes("cpu"), **options)


def losses_of(events):
    return [event.loss for event in events if isinstance(event, Step)]


def epochs_of(events):
    return [event for event in events if isinstance(event, Epoch)]


def recorded_losses(run):
    """Losses of each step as the run's events tell them; a step that was done again counts as it was last."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return list({e["step"]: e["loss"] for e in lines if e["event"] == "Step"}.values())


def weights_of(network):
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def first_batch(data, config):
    """The first batch that a stage draws."""
    source = open_data(data)
    held = people_to_hold_out(source.people, config.held_out_share, config.loop.seed)
    sides = [[i for i, p in enumerate(source.people) if (p in held) is there] for there in (False, True)]
    batches = PatchBatches(
        source,
        *sides,
        config.objective_class,
        config.settings,
        config.patch,
        times=config.patches_per_hemisphere,
        batch_size=config.loop.batch_size,
        tries=1,
        seed=config.loop.seed,
        processes=Processes("cpu"),
    )
    return next(batches.epoch(0)).batch
