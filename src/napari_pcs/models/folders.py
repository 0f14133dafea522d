"""Model folders: what there is to choose from, without loading any of it (or torch).

models/<name>/  config.json  weights.safetensors  card.md  digest  [lineage.json]

An adapter has instead of weights: base.json  adapter/adapter_config.json  adapter/adapter_model.safetensors
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_pcs.errors import ModelError
from napari_pcs.models.lineage import Lineage
from napari_pcs.provenance import ModelReference

__all__ = ["ModelFolder", "find_model", "free_path", "list_models", "new_model_path", "require_model_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder; nothing is read before it is asked for."""

    path: Path

    @property
    def name(self) -> str:
        """Folder name, by which the model is chosen."""
        return self.path.name

    @property
    def digest(self) -> str:
        """SHA-256 of the weights as recorded when they were saved; of an adapter, of its base's digest too."""
        try:
            return (self.path / "digest").read_text(errors="replace").strip()
        except OSError as error:
            msg = f"Model {self.name}: found no digest, expected one beside the weights. Copy the whole folder again."
            raise ModelError(msg) from error

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the network, as it stands in the file.

        Raises
        ------
        ModelError
            If it is no JSON object.
        """
        try:
            found = json.loads((self.path / "config.json").read_bytes())
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            msg = f"Model {self.name}: found no readable config.json, expected one. Copy the whole folder again."
            raise ModelError(msg)
        return found

    @property
    def is_adapter(self) -> bool:
        """Whether it holds only what differs from another model, its base."""
        return (self.path / "base.json").exists() or (self.path / "adapter").is_dir()

    @property
    def base(self) -> ModelReference | None:
        """Model that an adapter changes; None for a model with all weights of its own.

        Raises
        ------
        ModelError
            If it is an adapter that does not say of what.
        """
        if not self.is_adapter:
            return None
        try:
            return ModelReference.model_validate_json((self.path / "base.json").read_bytes())
        except (OSError, ValidationError) as error:
            msg = (
                f"Model {self.name}: found an adapter without a readable base.json, expected the name and the digest"
                " of its base. Copy the whole folder again."
            )
            raise ModelError(msg) from error

    @property
    def card(self) -> str:
        """What the model was trained on and how it scores (Markdown)."""
        path = self.path / "card.md"
        return path.read_text() if path.exists() else ""

    @property
    def summary(self) -> str:
        """First paragraph of the card, as plain text."""
        paragraphs = [p for p in self.card.split("\n\n") if p.strip() and not p.startswith("#")]
        return " ".join(paragraphs[0].replace("*", "").split()) if paragraphs else "This model has no card."

    @property
    def lineage(self) -> Lineage:
        """Stages of training that led to it; none where nobody has written them down."""
        path = self.path / "lineage.json"
        if not path.exists():
            return Lineage()
        try:
            return Lineage.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            msg = f"Model {self.name}: found a lineage.json that cannot be read. Copy the whole folder again."
            raise ModelError(msg) from error

    @property
    def has_trained_heads(self) -> bool:
        """Whether it can label; a model without a lineage was shipped complete."""
        lineage = self.lineage
        return not lineage.stages or "heads" in lineage.trained_parts

    def require_trained_heads(self) -> None:
        """Refuse a model that was only pre-trained, before anything large is read.

        Raises
        ------
        ModelError
            If no stage of its lineage has trained its heads.
        """
        if not self.has_trained_heads:
            msg = (
                f"Model {self.name}: found a pre-trained network without trained heads, expected a tuned one:"
                " tune it first with `napari-pcs tune`."
            )
            raise ModelError(msg)

    @property
    def reference(self) -> ModelReference:
        """Name and digest, for provenance."""
        return ModelReference(name=self.name, digest=self.digest)


def list_models(*roots: Path) -> list[ModelFolder]:
    """Return the shipped models, then those under the given folders, by name."""
    found = []
    for root in (_shipped(), *roots):
        found += [ModelFolder(p.parent) for p in sorted(root.glob("*/config.json"))]
    return found


def find_model(name: str, *roots: Path) -> ModelFolder:
    """Return a model by name, or by the path of its folder.

    Raises
    ------
    ModelError
        If there is no such model; the message lists those there are.
    """
    if (Path(name) / "config.json").exists():
        return ModelFolder(Path(name).resolve())
    models = list_models(*roots)
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models) or "none"
    msg = f"Model {name}: found no model of that name, expected one of: {known}, or the path of a model folder."
    raise ModelError(msg)


def new_model_path(models: Path, name: str | None, stem: str) -> Path:
    """Return the folder of a new model, by the name given or by the next free one.

    Raises
    ------
    ModelError
        If the name would lead out of the folder, or is taken.
    """
    if name is None:
        return next(path for n in count(1) if not (path := models / f"{stem}-{n}").exists())
    path = models / require_model_name(name)
    if path.exists():
        msg = f"Model {name}: found a model of that name already, expected a new name."
        raise ModelError(msg)
    return path


def require_model_name(name: str) -> str:
    """Return a name that a new model's folder can have on any system.

    Raises
    ------
    ModelError
        If it would lead out of its folder, or cannot be one.
    """
    if not _NAME.fullmatch(name):
        msg = f"Model {name!r}: found a name that is no folder's, expected letters, digits, '-', '.' and '_'."
        raise ModelError(msg)
    return name


def free_path(path: Path) -> Path:
    """Return the path of a new model, or if it has been taken meanwhile, one with a number behind the name."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in count(2))
    return path if not path.exists() else next(other for other in numbered if not other.exists())


def _shipped() -> Path:
    return Path(str(files("napari_pcs.models"))) / "shipped"
