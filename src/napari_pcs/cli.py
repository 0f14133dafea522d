"""The command line: `napari-pcs COMMAND`. One JSON object on stdout with --json, messages on stderr."""

from __future__ import annotations

import json
import time
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from napari_pcs import __version__
from napari_pcs.errors import PcsError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["app", "main"]

P = ParamSpec("P")
app = typer.Typer(
    name="napari-pcs",
    help="Label the paracingulate sulcus: predict, correct, tune, report.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Models that ship with napari-pcs or were tuned in a session.", no_args_is_help=True)
app.add_typer(models_app, name="models")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Side = Annotated[Hemisphere | None, typer.Option("--hemisphere", help="Side, where the file name does not say it.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Model = Annotated[str, typer.Option("--model", help="Name of a model, or the path of its folder.")]
DEFAULT_MODEL = "starter"
DEFAULT_SAMPLE = "mni152-left"


def main() -> None:
    """Run the command line."""
    app()


def _reported(command: Callable[P, None]) -> Callable[P, None]:
    """Turn an expected error into one sentence on stderr and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except PcsError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            typer.echo("Cancelled.", err=True)
            raise typer.Exit(1) from None

    return run


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _print(result: Any, *, as_json: bool, text: str) -> None:
    typer.echo(json.dumps(result, indent=2) if as_json else text)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
@_reported
def demo(
    sample: Annotated[
        str, typer.Option(help="mni152-left, mni152-right, phantom-0mm, phantom-30mm or phantom-60mm.")
    ] = DEFAULT_SAMPLE,
    screenshot: Annotated[Path | None, typer.Option(help="Save a picture of the window and close it.")] = None,
    size: Annotated[str, typer.Option(help="Size of the window in pixels.")] = "1600x1000",
    gui: Annotated[bool, typer.Option("--gui/--no-gui", help="Open a window, or only print the report.")] = True,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Open a sample hemisphere, predict it and report: the whole path in one command."""
    from napari_pcs.doctor import has_display

    if gui and not has_display():
        msg = "Found no display, expected one to open a window on. Use --no-gui, or run under Xvfb (see README)."
        raise PcsError(msg)
    if gui:
        from napari_pcs.gui.demo import run_demo

        run_demo(sample, screenshot=screenshot, size=_size(size), device=device)
        return
    from napari_pcs.data.samples import sample as build_sample
    from napari_pcs.pipeline import prediction_record, report_on

    start = time.perf_counter()
    case = build_sample(sample)
    read_s = time.perf_counter() - start
    prediction = _predict(case, DEFAULT_MODEL, device)
    against, report = report_on(case, prediction.labels)
    record = prediction_record(case, prediction, read_s=read_s)
    record["evaluate"] = {"against": against, **report.model_dump(mode="json", exclude={"case"})}
    dice = report.labels["skeleton"].dice
    _print(record, as_json=as_json, text=f"{_line(record)}\nskeleton Dice {dice:.2f} against the {against}")


@app.command()
@_reported
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, which devices and models there are, and what to do about what is missing."""
    from napari_pcs.doctor import examine

    found = examine()
    lines = [f"napari-pcs {found['napari_pcs']} on Python {found['python']}, {found['platform']}"]
    lines += [f"  {name:10} {number or 'not installed'}" for name, number in found["packages"].items()]
    lines += [f"  device {d['name']}: {d['free_memory_mb']:.0f} MB free" for d in found["devices"]]
    lines += [f"  model {m['name']} ({m['digest'][:12]})" for m in found["models"]]
    lines += [f"* {sentence}" for sentence in found["advice"]] or ["Nothing is missing."]
    _print(found, as_json=as_json, text="\n".join(lines))


@app.command()
@_reported
def skeleton(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Grey/white map of a hemisphere.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Mask to write (.nii or .nii.gz).")],
    hemisphere: Side = None,
    as_json: AsJson = False,
) -> None:
    """Extract the sulcal skeleton of one hemisphere."""
    from napari_pcs.anatomy.importers import read_case
    from napari_pcs.pipeline import extract_skeleton

    case, kind = read_case(source, hemisphere=hemisphere)
    start = time.perf_counter()
    mask = extract_skeleton(case)
    seconds = time.perf_counter() - start
    case.tissue.with_data(mask.astype("uint8")).write(target)
    record = {
        "case": case.key.stem,
        "input": kind,
        "voxels": int(mask.sum()),
        "seconds": seconds,
        "output": str(target),
    }
    _print(
        record, as_json=as_json, text=f"{target}: {record['voxels']} skeleton voxels from a {kind} in {seconds:.1f} s"
    )


@app.command()
@_reported
def predict(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="Grey/white maps of hemispheres.")],
    out: Annotated[Path, typer.Option(help="Session folder to write into.")],
    model: Model = DEFAULT_MODEL,
    hemisphere: Side = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict skeleton and PCS of hemispheres and write them into a session."""
    from napari_pcs.anatomy.importers import read_case
    from napari_pcs.pipeline import prediction_record, store_prediction
    from napari_pcs.session import Session

    session = Session.create(out)
    records = []
    for source in sources:
        start = time.perf_counter()
        case, kind = read_case(source, hemisphere=hemisphere)
        read_s = time.perf_counter() - start
        prediction = _predict(case, model, device, session.models)
        _, outputs = store_prediction(session, case, prediction)
        records.append({**prediction_record(case, prediction, read_s=read_s, outputs=outputs), "input": kind})
        _say(_line(records[-1]))
    _print({"cases": records}, as_json=as_json, text=f"{len(records)} predictions in {out}")


@app.command()
@_reported
def tune(
    data: Annotated[Path, typer.Option(help="Session folder with corrected cases.")],
    model: Model = DEFAULT_MODEL,
    name: Annotated[str | None, typer.Option(help="Name of the new model.")] = None,
    strategy: Annotated[str, typer.Option(help="top: the last 10 % of the weights and the heads.")] = "top",
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Passes over the corrected cases.")] = 5,
    learning_rate: Annotated[float, typer.Option(min=1e-7, max=0.1)] = 1e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
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
    target = new_model_folder(session, base, config) if name is None else session.models / name
    result: Tuned | None = None
    for event in tune_session(session, base, target, config, choose_device(device)):
        if isinstance(event, Preparing):
            _say(event.sentence)
        elif isinstance(event, Step):
            _say(f"step {event.step}  epoch {event.epoch}  loss {event.loss:.4f}  {event.seconds:.1f} s")
        elif isinstance(event, Tuned):
            result = event
    assert result is not None  # noqa: S101  the generator ends with it
    record = {
        **result.model_dump(mode="json", exclude={"before", "after"}),
        **{k: summarise(v).mean if v else None for k, v in (("before", result.before), ("after", result.after))},
    }
    held_out = ", ".join(result.held_out_cases) or "no case: corrections of a second person are needed to judge a model"
    _print(record, as_json=as_json, text=f"{result.path}: {result.seconds_total:.0f} s, judged on {held_out}")


@app.command()
@_reported
def evaluate(
    predicted: Annotated[Path, typer.Option(help="Folder, session or label file.")],
    reference: Annotated[Path, typer.Option(help="Folder, session or label file.")],
    tsv: Annotated[Path | None, typer.Option(help="Write the table here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare predicted with reference labels: Dice, NSD, Hausdorff, ASSD, clDice, length and class."""
    from napari_pcs.files import write_text
    from napari_pcs.metrics.report import table
    from napari_pcs.pipeline import evaluate as evaluate_paths

    summary = evaluate_paths(predicted, reference)
    text = table(summary.cases)
    if tsv:
        write_text(tsv, text)
    _print(summary.model_dump(mode="json"), as_json=as_json, text=text.rstrip())


@models_app.command("list")
@_reported
def models_list(
    session: Annotated[Path | None, typer.Option(help="Session whose own models to list too.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the models that can be chosen."""
    from napari_pcs.models.folders import list_models
    from napari_pcs.session import Session

    roots = [Session.open(session).models] if session else []
    found = [{"name": m.name, "digest": m.digest, "path": str(m.path)} for m in list_models(*roots)]
    _print(
        {"models": found},
        as_json=as_json,
        text="\n".join(f"{m['name']:24} {m['digest'][:12]}  {m['path']}" for m in found),
    )


def _predict(case: Any, model: str, device: str, *roots: Path) -> Any:
    from napari_pcs.models.device import choose_device
    from napari_pcs.models.folders import find_model
    from napari_pcs.models.store import load_network
    from napari_pcs.predict import predict as run

    folder = find_model(model, *roots)
    return run(case, load_network(folder), folder.reference, choose_device(device))


def _line(record: dict[str, Any]) -> str:
    timing = record["timings_s"]
    return (
        f"{record['case']}: PCS {record['class']}, {record['length_mm']:.1f} mm; "
        f"{timing['total']:.1f} s on {record['device']} ({record['mode']}, network {timing['network']:.1f} s)"
    )


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise typer.BadParameter(f"found {text!r}, expected WIDTHxHEIGHT such as 1280x800", param_hint="--size")  # noqa: EM102
    return int(width), int(height)


if __name__ == "__main__":
    main()
