"""cache: what was computed once and is kept, where it lies and how to be rid of it."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_pcs.cli.options import AsJson, app, reported, show


@app.command()
@reported
def cache(
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Empty it. Pre-training that reads from it ends; all else goes on."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is kept because computing it takes long, and where; all of it is computed again when it is gone."""
    from napari_pcs.caches import cache_usage, clear_caches
    from napari_pcs.data.cache import cache_root

    freed = clear_caches() if clear else 0
    usage = cache_usage()
    found = {
        "folder": str(cache_root()),
        "freed_bytes": freed,
        "kept": [
            {
                "name": part.name,
                "folder": str(part.folder),
                "entries": part.entries,
                "bytes": part.size_bytes,
                "limit_bytes": part.limit_bytes,
            }
            for part in usage
        ],
    }
    lines = [
        f"{part.name:11} {part.entries:6} {_megabytes(part.size_bytes):>12} {_limit(part.limit_bytes):21} {part.folder}"
        for part in usage
    ]
    if clear:
        lines.insert(0, f"{_megabytes(freed)} are free again.")
    show(found, as_json=as_json, text="\n".join(lines))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _limit(count: int | None) -> str:
    return "without limit" if count is None else f"of at most {_megabytes(count)}"
