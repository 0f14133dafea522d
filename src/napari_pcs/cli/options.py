"""What all commands share: the app, their options, and how they report."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, ParamSpec

import typer

from napari_pcs.errors import PcsError
from napari_pcs.labels import Hemisphere

__all__ = [
    "DEFAULT_MODEL",
    "INPUT_HELP",
    "AsJson",
    "Device",
    "Engine",
    "Model",
    "Side",
    "app",
    "reported",
    "say",
    "show",
]

P = ParamSpec("P")
app = typer.Typer(
    name="napari-pcs",
    help="Label the paracingulate sulcus: predict, correct, tune, report.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Side = Annotated[Hemisphere | None, typer.Option("--hemisphere", help="Side, where the file name does not say it.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Engine = Annotated[
    str,
    typer.Option(
        help="auto, torch or openvino (CPU only): what runs the network. auto is what NAPARI_PCS_ENGINE says or,"
        " failing that, OpenVINO where it is installed and agrees with PyTorch."
    ),
]
Model = Annotated[str, typer.Option("--model", help="Name of a model, or the path of its folder.")]
DEFAULT_MODEL = "starter"
INPUT_HELP = "Grey/white maps, Morphologist, FreeSurfer or FastSurfer subjects, BIDS folders, or T1w scans."


def reported(command: Callable[P, None]) -> Callable[P, None]:
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


def say(message: str) -> None:
    """Print progress on stderr."""
    typer.echo(message, err=True)


def show(result: Any, *, as_json: bool, text: str) -> None:
    """Print the result on stdout, as JSON or as text."""
    typer.echo(json.dumps(result, indent=2) if as_json else text)
