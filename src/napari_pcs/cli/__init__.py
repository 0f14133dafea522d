"""The command line: `napari-pcs COMMAND`. One JSON object on stdout with --json, messages on stderr."""

from __future__ import annotations

import atexit
import gc
from typing import Annotated

import typer

from napari_pcs import __version__
from napari_pcs.cli import (  # importing a command registers it
    anatomy,
    cache,
    inspect,
    models,
    predict,
    prepare,
    pretrain,
    tune,
)
from napari_pcs.cli.options import app
from napari_pcs.heap import reuse
from napari_pcs.unwanted import spare_transformers

__all__ = ["anatomy", "app", "cache", "inspect", "main", "models", "predict", "prepare", "pretrain", "tune"]


def main() -> None:
    """Run the command line."""
    reuse()
    spare_transformers()
    # Before it ends, the interpreter would look through all that torch and MONAI have made: two seconds.
    atexit.register(gc.freeze)
    app()


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
