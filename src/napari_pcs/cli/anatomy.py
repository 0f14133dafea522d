"""skeleton."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from napari_pcs.cli.options import AsJson, Side, app, reported, show


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
