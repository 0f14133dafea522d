"""tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_pcs.cli.options import DEFAULT_MODEL, AsJson, Device, Model, app, reported, say, show
from napari_pcs.errors import PcsError


@app.command()
@reported
def tune(
    data: Annotated[Path, typer.Option(help="Session folder with corrected cases.")],
    model: Model = DEFAULT_MODEL,
    name: Annotated[str | None, typer.Option(help="Name of the new model.")] = None,
    strategy: Annotated[str, typer.Option(help="top: the last 10 % of the weights and the heads.")] = "top",
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Passes over the corrected cases.")] = 5,
    learning_rate: Annotated[float, typer.Option(min=1e-7, max=0.1)] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Tune a model on the corrections of a session and compare before and after on held-out people."""
    from napari_pcs.metrics.report import summarise
    from napari_pcs.models.device import choose_device
    from napari_pcs.models.folders import find_model
    from napari_pcs.pipeline import new_model_folder, tune_session
    from napari_pcs.session import Session
    from napari_pcs.training.config import TuneConfig
    from napari_pcs.training.events import Preparing, Step, Tuned

    if strategy not in TuneConfig.model_fields["strategy"].annotation.__args__:  # type: ignore[union-attr]
        msg = f"Strategy {strategy}: found no such strategy, expected top."
        raise PcsError(msg)
    session = Session.open(data)
    config = TuneConfig(epochs=epochs, learning_rate=learning_rate, seed=seed)
    base = find_model(model, session.models)
    target = new_model_folder(session, base, config, name)
    result: Tuned | None = None
    for event in tune_session(session, base, target, config, choose_device(device)):
        if isinstance(event, Preparing):
            say(event.sentence)
        elif isinstance(event, Step):
            say(f"step {event.step}  epoch {event.epoch}  loss {event.loss:.4f}  {event.seconds:.1f} s")
        elif isinstance(event, Tuned):
            result = event
    assert result is not None  # noqa: S101  the generator ends with it
    record = {
        **result.model_dump(mode="json", exclude={"before", "after"}),
        **{k: summarise(v).mean if v else None for k, v in (("before", result.before), ("after", result.after))},
    }
    held_out = ", ".join(result.held_out_cases) or "no case: corrections of a second person are needed to judge a model"
    show(record, as_json=as_json, text=f"{result.path}: {result.seconds_total:.0f} s, judged on {held_out}")
