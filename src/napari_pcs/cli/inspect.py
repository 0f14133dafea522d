"""doctor and evaluate: looking, without changing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_pcs.cli.options import AsJson, app, reported, show


@app.command()
@reported
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, which devices and models there are, and what to do about what is missing."""
    from napari_pcs.doctor import examine

    found = examine()
    lines = [f"napari-pcs {found['napari_pcs']} on Python {found['python']}, {found['platform']}"]
    lines += [f"  {name:10} {number or 'not installed'}" for name, number in found["packages"].items()]
    lines += [f"  device {d['name']}: {d['free_memory_mb']:.0f} MB free" for d in found["devices"]]
    lines += [f"  model {m['name']} ({m['digest'][:12]})" for m in found["models"]]
    lines.append(f"  kept in {found['cache']['folder']}: {found['cache']['bytes'] / 1e6:.1f} MB")
    lines += [f"* {sentence}" for sentence in found["advice"]] or ["Nothing is missing."]
    show(found, as_json=as_json, text="\n".join(lines))


@app.command()
@reported
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
    show(summary.model_dump(mode="json"), as_json=as_json, text=text.rstrip())
