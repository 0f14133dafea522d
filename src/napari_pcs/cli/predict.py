"""predict, and the demo that shows it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_pcs.cli.cohort import line, predict_inputs
from napari_pcs.cli.options import DEFAULT_MODEL, INPUT_HELP, AsJson, Device, Engine, Model, Side, app, reported, show
from napari_pcs.errors import PcsError

DEFAULT_SAMPLE = "mni152-left"


@app.command()
@reported
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
    prediction = predict_case(case, DEFAULT_MODEL, device)
    against, report = report_on(case, prediction.labels)
    record = prediction_record(case, prediction, read_s=read_s)
    record["evaluate"] = {"against": against, **report.model_dump(mode="json", exclude={"case"})}
    dice = report.labels["skeleton"].dice
    show(record, as_json=as_json, text=f"{line(record)}\nskeleton Dice {dice:.2f} against the {against}")


@app.command()
@reported
def predict(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help=f"{INPUT_HELP} Folders of any, or a session.")],
    out: Annotated[Path, typer.Option(help="Session folder to write into.")],
    model: Model = DEFAULT_MODEL,
    hemisphere: Side = None,
    again: Annotated[
        bool, typer.Option("--again", help="Predict what the session has from the same model and image all the same.")
    ] = False,
    device: Device = "auto",
    engine: Engine = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict skeleton and PCS of hemispheres and write them into a session.

    What is there from the same model and image is skipped; a case that fails stops no other. Under
    torchrun or accelerate launch, the processes divide the cases.
    """
    predict_inputs(sources, out, model, hemisphere, device, again=again, engine=engine).show(as_json=as_json)


def predict_case(case: Any, model: str, device: str, *roots: Path) -> Any:
    from napari_pcs.inference.choose import Engines
    from napari_pcs.models.device import choose_device
    from napari_pcs.models.folders import find_model
    from napari_pcs.models.store import load_segmenter
    from napari_pcs.predict import predict as run

    folder, where = find_model(model, *roots), choose_device(device)
    network = load_segmenter(folder)
    return run(case, network, folder.reference, where, engines=Engines(network, folder.digest, where))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise typer.BadParameter(f"found {text!r}, expected WIDTHxHEIGHT such as 1280x800", param_hint="--size")  # noqa: EM102
    return int(width), int(height)
