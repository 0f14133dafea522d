"""Writing a model's folder: all of it, or nothing."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from napari_pcs.errors import ModelError
from napari_pcs.files import json_bytes, write_together
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.lineage import lineage_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_pcs.models.contract import NetworkConfig
    from napari_pcs.models.lineage import Lineage

__all__ = ["write_model"]


def write_model(
    path: Path, files: Mapping[str, bytes], digest: str, config: NetworkConfig, card: str, lineage: Lineage | None
) -> ModelFolder:
    """Write a new model folder: all of it, or nothing.

    Parameters
    ----------
    path
        The new folder.
    files
        That hold the weights, and any others, by their paths within the folder.
    digest
        Of the weights.
    config
        Of the network.
    card
        In Markdown; receives a table of the lineage.
    lineage
        How it came to be. Its last stage receives the digest.

    Raises
    ------
    ModelError
        If the folder exists already.
    SessionError
        If it cannot be written; nothing is left of it.
    """
    if path.exists():
        msg = f"Model {path.name}: found a model of that name already, expected a new name."
        raise ModelError(msg)
    contents = {path / name: content for name, content in files.items()}
    contents[path / "digest"] = f"{digest}\n".encode()
    if lineage is not None:
        lineage = lineage.ending_with(digest)
        card = f"{card.rstrip()}\n\n## Lineage\n\n{lineage_table(lineage)}\n"
        contents[path / "lineage.json"] = json_bytes(lineage.model_dump(mode="json"))
    contents[path / "card.md"] = card.encode()
    contents[path / "config.json"] = json_bytes(json.loads(config.model_dump_json()))  # makes it a model: last
    try:
        write_together(contents)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # half a folder would take the name of the next try
        raise
    return ModelFolder(path)
