"""predict, and the demo that shows it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_pcs.cli.options import DEFAULT_MODEL, INPUT_HELP, AsJson, Device, Model, Side, app, reported, say, show
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
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help=INPUT_HELP)],
    out: Annotated[Path, typer.Option(help="Session folder to write into.")],
    model: Model = DEFAULT_MODEL,
    hemisphere: Side = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict skeleton and PCS of hemispheres and write them into a session."""
    from napari_pcs.anatomy.progress import Step
    from napari_pcs.anatomy.sources import find_sources
    from napari_pcs.models.device import choose_device
    from napari_pcs.models.folders import find_model
    from napari_pcs.pipeline import prediction_record, store_prediction
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken

    session = Session.create(out)
    find_model(model, session.models)  # what is missing is said before anything is read
    choose_device(device)
    records = []
    for source in (found for path in sources for found in find_sources(path, hemisphere)):
        start = time.perf_counter()
        for event in source.read(None, StopToken()):
            if isinstance(event, Step):
                say(f"{source.path.name}: {event.sentence}")
                continue
            read_s = time.perf_counter() - start
            prediction = predict_case(event, model, device, session.models)
            _, outputs = store_prediction(session, event, prediction)
            record = prediction_record(event, prediction, read_s=read_s, outputs=outputs)
            records.append({**record, "input": source.kind})
            say(line(records[-1]))
            start = time.perf_counter()
    show({"cases": records}, as_json=as_json, text=f"{len(records)} predictions in {out}")


def predict_case(case: Any, model: str, device: str, *roots: Path) -> Any:
    from napari_pcs.models.device import choose_device
    from napari_pcs.models.folders import find_model
    from napari_pcs.models.store import load_segmenter
    from napari_pcs.predict import predict as run

    folder = find_model(model, *roots)
    return run(case, load_segmenter(folder), folder.reference, choose_device(device))


def line(record: dict[str, Any]) -> str:
    timing = record["timings_s"]
    measured = record["length_mm"] is not None
    found = f"PCS {record['class']}, {record['length_mm']:.1f} mm" if measured else "PCS not measured: no AC and PC"
    return (
        f"{record['case']}: {found}; "
        f"{timing['total']:.1f} s on {record['device']} ({record['mode']}, network {timing['network']:.1f} s)"
    )


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise typer.BadParameter(f"found {text!r}, expected WIDTHxHEIGHT such as 1280x800", param_hint="--size")  # noqa: EM102
    return int(width), int(height)
