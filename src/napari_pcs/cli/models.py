"""models: list, show, import, export and merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_pcs.cli.options import AsJson, app, reported, show

models_app = typer.Typer(help="Models that ship with napari-pcs or were made in a session.", no_args_is_help=True)
app.add_typer(models_app, name="models")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a model, or the path of its folder.")]
InSession = Annotated[Path | None, typer.Option("--session", help="Session whose own models to look at too.")]


@models_app.command("list")
@reported
def models_list(session: InSession = None, as_json: AsJson = False) -> None:
    """List the models that can be chosen."""
    from napari_pcs.models.folders import list_models

    models = list_models(*_roots(session))
    found = [{"name": m.name, "digest": m.digest, "path": str(m.path), "base": _base(m)} for m in models]
    lines = (f"{m.name:24} {m.digest[:12]}  {m.path}{f'  adapter of {m.base.name}' if m.base else ''}" for m in models)
    show({"models": found}, as_json=as_json, text="\n".join(lines))


@models_app.command("show")
@reported
def models_show(name: Name, session: InSession = None, as_json: AsJson = False) -> None:
    """Show what a model is, how it came to be and how it scores."""
    from napari_pcs.models.folders import find_model
    from napari_pcs.models.lineage import lineage_table

    model = find_model(name, *_roots(session))
    record = _record(model)
    settings = ", ".join(f"{key} {value}" for key, value in record["config"].items())
    head = f"{model.name}  {model.digest[:12]}  {model.path}\n{settings}"
    if model.base:
        head += f"\nAdapter of {model.base.name}  {model.base.digest[:12]}"
    if not record["trained_heads"]:
        head += "\nPre-trained only: tune it before it can predict."
    body = model.card.rstrip() or model.summary
    if model.lineage.stages and "## Lineage" not in body:
        body += f"\n\n{lineage_table(model.lineage)}"
    show(record, as_json=as_json, text=f"{head}\n\n{body}")


@models_app.command("import")
@reported
def models_import(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="Published weights (.pt, .pth, .safetensors), or an exported .zip.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the new model: a session's, or any folder of models.")],
    kind: Annotated[
        str | None, typer.Option("--as", help="What the weights are of: monai-swin-unetr or resnet18. Not for a .zip.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new model; a .zip has one already.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a model from published weights that you have as a file, or from an exported model."""
    from napari_pcs.models.folders import require_model_name

    folder = _models_folder(out)
    if name is not None:
        require_model_name(name)
    if source.suffix.lower() == ".zip":
        if kind is not None:
            raise typer.BadParameter("an exported model says itself what it is", param_hint="--as")  # noqa: EM101
        from napari_pcs.models.archive import import_archive

        model = import_archive(source, folder, name)
    else:
        from napari_pcs.models.importing import KINDS, import_weights

        chosen = next((k for k in KINDS if k == kind), None)
        if chosen is None:
            raise typer.BadParameter(f"found {kind}, expected one of: {', '.join(KINDS)}", param_hint="--as")  # noqa: EM102
        if name is None:
            raise typer.BadParameter("expected a name for the new model", param_hint="--name")  # noqa: EM101
        model = import_weights(source, chosen, folder / name)
    show(_record(model), as_json=as_json, text=f"{model.name} in {model.path}\n{model.summary}")


@models_app.command("export")
@reported
def models_export(
    name: Name,
    target: Annotated[Path, typer.Argument(metavar="FILE.zip", help="New archive.")],
    session: InSession = None,
    as_json: AsJson = False,
) -> None:
    """Write a model as one .zip file, to be imported elsewhere."""
    from napari_pcs.models.archive import export_model
    from napari_pcs.models.folders import find_model

    model = find_model(name, *_roots(session))
    export_model(model, target)
    size = target.stat().st_size
    found = {"name": model.name, "digest": model.digest, "path": str(target), "bytes": size, "base": _base(model)}
    text = f"{model.name} in {target}, {size / 1e6:.1f} MB"
    if model.base:
        text += f"\nAn adapter: it can only be imported where there is {model.base.name} ({model.base.digest[:12]})."
    show(found, as_json=as_json, text=text)


@models_app.command("merge")
@reported
def models_merge(
    name: Name,
    new: Annotated[str, typer.Option("--name", help="Name of the new model.")],
    session: InSession = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the new model: a session's, or any; beside the adapter if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a model with all weights of its own from an adapter and its base."""
    from napari_pcs.models.adapters import merge_adapter
    from napari_pcs.models.bases import find_base
    from napari_pcs.models.folders import find_model, require_model_name

    adapter = find_model(name, *_roots(session))
    base = find_base(adapter)
    target = (_models_folder(out) if out else adapter.path.parent) / require_model_name(new)
    card = f"# {new}\n\nMerged from the adapter {adapter.name} and its base {base.name}.\n"
    model = merge_adapter(adapter, target, f"{card}\n{_without_title(adapter.card)}")
    show(_record(model), as_json=as_json, text=f"{model.name} in {model.path}\n{model.summary}")


def _record(model: Any) -> dict[str, Any]:
    """Return the JSON object of one model."""
    return {
        "name": model.name,
        "digest": model.digest,
        "path": str(model.path),
        "base": _base(model),
        "config": model.config,
        "trained_heads": model.has_trained_heads,
        "lineage": [stage.model_dump(mode="json") for stage in model.lineage.stages],
        "card": model.card,
    }


def _base(model: Any) -> dict[str, str] | None:
    """Return the model that an adapter changes."""
    return model.base.model_dump() if model.base else None


def _without_title(card: str) -> str:
    """Return a card without its title and lineage, which the new model has of its own."""
    body = card.partition("\n## Lineage")[0]
    return body.partition("\n")[2].lstrip() if body.startswith("# ") else body


def _roots(session: Path | None) -> list[Path]:
    from napari_pcs.session import Session

    return [Session.open(session).models] if session else []


def _models_folder(out: Path) -> Path:
    """Return where models lie: of a session its own folder of models, else the folder itself."""
    from napari_pcs.session import Session

    return Session.open(out).models if (out / "session.json").exists() else out
