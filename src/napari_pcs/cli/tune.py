"""tune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_pcs.cli.options import DEFAULT_MODEL, AsJson, Device, app, reported, show
from napari_pcs.errors import InputError, PcsError

if TYPE_CHECKING:
    from napari_pcs.training.events import Tuned

_WHY = {
    "complete": "as many as asked for",
    "early": "then it no longer got better",
    "budget": "then the time was up",
    "cancelled": "then it was stopped",
}
_SHOWN = (
    ("skeleton", "Dice", "dice", ""),
    ("skeleton", "Hausdorff 95 %", "hd95_mm", " mm"),
    ("pcs", "Dice", "dice", ""),
    ("pcs", "Hausdorff 95 %", "hd95_mm", " mm"),
)
Figures = dict[str, Any]


@app.command()
@reported
def tune(
    data: Annotated[Path, typer.Option(help="Session folder with corrected cases.")],
    model: Annotated[str | None, typer.Option(help="Name of a model, or the path of its folder.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new model.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="top, decoder, full, lora or scratch: what trains beside the heads.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="30s, 2min, or best: until it stops improving.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=100_000, help="Exactly so many, whatever time.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-7, max=0.1)] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1)] = None,
    config: Annotated[Path | None, typer.Option(help="JSON of all settings; the options above go first.")] = None,
    repeat: Annotated[Path | None, typer.Option(help="Folder of a tuning run to repeat exactly.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Tune a model on the corrections of a session and compare before and after on held-out people."""
    from napari_pcs.cli.progress import TrainingProgress
    from napari_pcs.metrics.report import summarise
    from napari_pcs.models.device import choose_device
    from napari_pcs.models.folders import find_model
    from napari_pcs.session import Session
    from napari_pcs.training.events import Tuned
    from napari_pcs.tuning import new_model_folder, repeated, tune_session

    changes = {
        "strategy": strategy,
        "budget": budget,
        "rounds": rounds,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    changes = {setting: value for setting, value in changes.items() if value is not None}
    session = Session.open(data)
    if repeat is not None:
        if changes or config or model:
            msg = "Found settings beside --repeat, expected none: a repeated run has those of its folder."
            raise PcsError(msg)
        base, settings, cases = repeated(session, repeat)
    else:
        settings = _settings(config, changes)
        base, cases = find_model(model or DEFAULT_MODEL, session.models), None
    target = new_model_folder(session, base, settings, name)
    result: Tuned | None = None
    with TrainingProgress(lap="round") as progress:
        for event in tune_session(session, base, target, settings, choose_device(device), cases=cases):
            progress.show(event)
            result = event if isinstance(event, Tuned) else result
    assert result is not None  # noqa: S101  the generator ends with it
    record = {
        **result.model_dump(mode="json", exclude={"before", "after"}),
        **{k: summarise(v).mean if v else None for k, v in (("before", result.before), ("after", result.after))},
    }
    show(record, as_json=as_json, text=_told(result, record["before"], record["after"]))


def _told(result: Tuned, before: Figures | None, after: Figures | None) -> str:
    """Say where the model is, and how it did on held-out cases: means, before and after."""
    rounds = "1 round" if result.rounds == 1 else f"{result.rounds} rounds"
    head = f"{result.path}: {result.seconds_total:.0f} s, {rounds}, {_WHY[result.stopped]}"
    if not result.held_out_cases:
        return f"{head}; judged on no case: corrections of a second person are needed to judge a model"
    lines = [f"{head}; judged on {', '.join(result.held_out_cases)}"]
    for label, name, figure, unit in _SHOWN:
        old, new = (_figure(found, label, figure, unit) for found in (before, after))
        lines.append(f"  {label} {name}: {old} before, {new} after")
    return "\n".join(lines)


def _figure(found: Figures | None, label: str, figure: str, unit: str) -> str:
    value = found[label][figure] if found else None
    return "not known" if value is None else f"{value:.2f}{unit}"


def _settings(path: Path | None, changes: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from napari_pcs.training.config import TuneConfig

    try:
        given = json.loads(path.read_bytes()) if path else {}
        return TuneConfig.model_validate({**given, **changes})
    except (OSError, ValueError, TypeError) as error:
        if not isinstance(error, ValidationError):
            raise InputError(
                found=f"no settings that can be read ({error})", expected="a JSON object of settings", path=path
            ) from error
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors()
        )
        msg = f"Settings of tuning: {problems}."
        raise PcsError(msg) from error
