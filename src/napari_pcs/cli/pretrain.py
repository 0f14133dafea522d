"""pretrain."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_pcs.cli.options import AsJson, Device, app, reported, say, show
from napari_pcs.cli.stopping import stopped_by_signals
from napari_pcs.errors import CancelledError, PcsError


@app.command()
@reported
def pretrain(
    objective: Annotated[
        str | None, typer.Option(help="Name of an objective, or a Python file that defines one; see --list.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Session, or folder of tissue maps or of 2-D images.")] = None,
    init: Annotated[str | None, typer.Option(help="Model to begin from; stages are chained like this.")] = None,
    recipe: Annotated[str, typer.Option(help="laptop, quick or published.")] = "laptop",
    config: Annotated[Path | None, typer.Option(help="JSON of settings that differ from the recipe's.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder that gets models/ and runs/; the session, or the current folder.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new model.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=100_000, help="Passes over the hemispheres.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=4096, help="Samples per step and process.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Samples in memory at a time; found by trying if left out.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-7, max=10)] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1)] = None,
    workers: Annotated[int | None, typer.Option(min=0, max=64, help="Processes that read ahead.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a stopped run to go on with.")] = None,
    list_objectives: Annotated[bool, typer.Option("--list", help="List objectives and recipes.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Pre-train a network on hemispheres that nobody has labelled; one stage, which --init chains to others.

    Under torchrun or accelerate launch, all processes train together.
    """
    from napari_pcs.training.processes import Processes

    if list_objectives:
        _list(as_json=as_json)
        return
    changes = {
        "loop": {
            "epochs": epochs,
            "batch_size": batch_size,
            "micro_batch": micro_batch,
            "seed": seed,
            "optimiser": {"learning_rate": learning_rate},
        }
    }
    with Processes(device) as processes:
        if resume is not None:
            given = {"objective": objective, "data": data, "init": init, "config": config, "out": out, "name": name}
            run, plan = _resumed(resume, {**given, **_flat(changes)})
        else:
            run, plan = _new(objective, data, init, recipe, config, changes, out, name)
        run = processes.share(run)
        if processes.is_main:
            say(f"run: {run}")
        result = _follow(run, plan, processes, resume=resume is not None, workers=workers)
        if processes.is_main:
            record = {
                "model": result.model.model_dump(),
                "objective": result.objective,
                "epochs": result.epochs,
                "seconds_per_epoch": result.seconds_per_epoch,
                "loss": {"first": result.first_loss, "last": result.last_loss},
                "lineage": [stage.model_dump() for stage in result.lineage],
                **result.model_dump(mode="json", include=_MORE),
            }
            text = (
                f"{result.path}: {result.epochs} epochs in {result.seconds_total:.0f} s, mean loss"
                f" {result.first_loss:.4g} -> {result.last_loss:.4g}"
            )
            show(record, as_json=as_json, text=text)


_MORE = {"path", "run", "best_epoch", "stopped", "seconds_total", "skipped"}


def _list(*, as_json: bool) -> None:
    from napari_pcs.objectives import known_objectives
    from napari_pcs.training.recipes import RECIPES, read_recipe

    objectives = {name: (kind.__doc__ or "").split("\n")[0] for name, kind in known_objectives().items()}
    recipes = {name: read_recipe(name).summary for name in RECIPES}
    lines = [f"{name:15} {text}" for name, text in (*objectives.items(), *recipes.items())]
    show({"objectives": objectives, "recipes": recipes}, as_json=as_json, text="\n".join(lines))


def _resumed(run: Path, options: dict[str, Any]) -> tuple[Path, Any]:
    from napari_pcs.training.plan import read_plan

    given = ", ".join("--" + name.replace("_", "-") for name, value in options.items() if value is not None)
    if given:
        msg = f"--resume goes on as the run was begun: found {given} beside it, expected none of these."
        raise PcsError(msg)
    return run, read_plan(run)


def _new(
    objective: str | None,
    data: Path | None,
    init: str | None,
    recipe: str,
    config: Path | None,
    changes: dict[str, Any],
    out: Path | None,
    name: str | None,
) -> tuple[Path, Any]:
    from napari_pcs.data.sources import open_data
    from napari_pcs.layout import new_run_folder
    from napari_pcs.models.folders import find_model, new_model_path
    from napari_pcs.models.networks import parse_network_config
    from napari_pcs.objectives import find_objective
    from napari_pcs.training.plan import PretrainPlan, load_objective_file
    from napari_pcs.training.recipes import merged, read_recipe, stage_config

    if objective is None or data is None:
        msg = "Found no --objective or no --data, expected both, or --resume with the folder of a stopped run."
        raise PcsError(msg)
    file = Path(objective).resolve() if objective.endswith(".py") else None
    if file is not None:
        objective = load_objective_file(file)
    find_objective(objective)
    root = out or (data if (data / "session.json").exists() else Path())
    base = None if init is None else find_model(init, root / "models")
    if base is None:
        dims = open_data(data).spatial_dims
    else:
        dims = parse_network_config((base.path / "config.json").read_bytes()).spatial_dims
    settings = merged(read_recipe(recipe).settings(objective, dims), _read(config) if config else {})
    stage = stage_config(merged(settings, _given(changes)))
    plan = PretrainPlan(
        data=data.resolve(),
        model=new_model_path(root / "models", name, objective).resolve(),
        init=base.path if base else None,
        objective_file=file,
        stage=stage,
    )
    return new_run_folder(root.resolve(), f"pretrain-{objective}"), plan


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        msg = f"{path.name}: found no JSON ({error}), expected an object of settings."
        raise PcsError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path.name}: found a JSON {type(content).__name__}, expected an object of settings."
        raise PcsError(msg)
    return content


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    """Drop options that were not given."""
    nested = {k: _given(v) if isinstance(v, dict) else v for k, v in changes.items()}
    return {k: v for k, v in nested.items() if v is not None and v != {}}


def _flat(changes: dict[str, Any]) -> dict[str, Any]:
    """Return options by their own names, without the groups that they are settings of."""
    nested = [_flat(value) if isinstance(value, dict) else {name: value} for name, value in changes.items()]
    return {name: value for group in nested for name, value in group.items()}


def _follow(run: Path, plan: Any, processes: Any, *, resume: bool, workers: int | None) -> Any:
    """Show what happens; the first Ctrl-C or SIGTERM ends the run with a checkpoint, a second one at once."""
    from napari_pcs.cli.progress import TrainingProgress
    from napari_pcs.training.events import Pretrained
    from napari_pcs.training.pretrain import pretrain as stage

    def told(name: str) -> None:
        if processes.is_main:
            say(f"{name}: stopping with a checkpoint.")

    result: Pretrained | None = None
    with stopped_by_signals(told) as stop, TrainingProgress() if processes.is_main else nullcontext() as progress:
        for event in stage(run, plan, processes, stop, resume=resume, workers=workers):
            if progress is not None:
                progress.show(event)
            if isinstance(event, Pretrained):
                result = event
    if result is None:
        msg = "Cancelled."
        raise CancelledError(msg)
    return result
