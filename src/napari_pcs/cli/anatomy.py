"""skeleton, measure and the presets that measure by."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from napari_pcs.cli.options import AsJson, Side, app, reported, show

presets_app = typer.Typer(
    help="Protocols for length and class: data with a source, to copy and edit.", no_args_is_help=True
)
app.add_typer(presets_app, name="presets")


class Frame(StrEnum):
    """Where `measure` takes the AC-PC frame from."""

    FILE = "file"
    WORLD = "world"


@app.command()
@reported
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
    show(record, as_json=as_json, text=f"{target}: {record['voxels']} skeleton voxels from a {kind} in {seconds:.1f} s")


@app.command()
@reported
def measure(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Label map of one hemisphere.")],
    preset: Annotated[str, typer.Option(help="Name of a preset, or the path of one's own.")] = "default",
    label: Annotated[int | None, typer.Option(min=1, help="Value to measure; the PCS (2) if not given.")] = None,
    frame: Annotated[
        Frame, typer.Option(help="file: AC and PC as the file knows them; world: its mm are AC-PC aligned already.")
    ] = Frame.FILE,
    tissue: Annotated[
        Path | None, typer.Option(help="Grey/white map on the same grid, to be aligned where the file knows nothing.")
    ] = None,
    hemisphere: Side = None,
    as_json: AsJson = False,
) -> None:
    """Measure a sulcus: length in mm along its hull-side line, pieces, gaps, extent and class."""
    from napari_pcs.anatomy.landmarks import WORLD
    from napari_pcs.anatomy.measuring import measure_file
    from napari_pcs.anatomy.preset import find_preset

    found, known = measure_file(
        labels,
        find_preset(preset),
        label=label,
        commissures=WORLD if frame is Frame.WORLD else None,
        tissue=tissue,
        hemisphere=hemisphere,
    )
    record = found.model_dump(mode="json")
    record["class"] = record.pop("pcs_class")
    record["commissures"] = known.model_dump(mode="json")
    gaps = f", bridging {', '.join(f'{gap:.1f}' for gap in found.gaps_mm)} mm" if found.gaps_mm else ""
    text = f"{found.length_mm:.1f} mm in {len(found.pieces)} pieces{gaps}: {found.pcs_class} by preset {found.preset}"
    show(record, as_json=as_json, text="\n".join((text, *found.notes)))


@presets_app.command("list")
@reported
def presets_list(as_json: AsJson = False) -> None:
    """List the presets that come with napari-pcs."""
    from napari_pcs.anatomy.preset import find_preset, preset_names

    found = [find_preset(name) for name in preset_names()]
    records = [p.model_dump(mode="json", include={"name", "citation", "description"}) for p in found]
    show({"presets": records}, as_json=as_json, text="\n".join(f"{p.name:18} {p.citation}" for p in found))


@presets_app.command("show")
@reported
def presets_show(
    name: Annotated[str, typer.Argument(help="Name of a preset, or the path of one's own.")],
) -> None:
    """Print a preset as JSON: redirect it into a file, edit that, and give its path to measure."""
    from napari_pcs.anatomy.preset import find_preset

    typer.echo(find_preset(name).model_dump_json(indent=2))
