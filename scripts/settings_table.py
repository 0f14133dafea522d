"""Write the tables of settings and recipes into the docs, from what the program itself reads.

    python scripts/settings_table.py

A page says where with a pair of comments, `<!-- NAME -->` and `<!-- /NAME -->`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from napari_pcs.data.augment import Augmentation3D
from napari_pcs.models.diffusion_unet import DiffusionUNetConfig
from napari_pcs.models.resnet import ResNetConfig
from napari_pcs.models.swin_unetr import SwinUNETRConfig
from napari_pcs.objectives import known_objectives
from napari_pcs.objectives.pictures import Augmentation2D
from napari_pcs.objectives.views import ViewSettings
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.recipes import RECIPES, read_recipe
from napari_pcs.training.stage import PretrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo

DOCS = Path(__file__).parents[1] / "docs"
NETWORKS = (SwinUNETRConfig, DiffusionUNetConfig, ResNetConfig)
_WORDS = {"ge": "from", "gt": "above", "le": "to", "lt": "to less than"}
_HEAD = ["| setting | default | allowed | what it is |", "|---|---|---|---|"]


def stage() -> str:
    """Settings of a stage and of its loop."""
    return "\n".join([*_HEAD, *rows(PretrainConfig, leave_out={"settings", "network"})])


def networks() -> str:
    """Settings of every network."""
    return "\n\n".join(_titled(f"`{kind.model_fields['architecture'].default}`", kind) for kind in NETWORKS)


def objectives() -> str:
    """Settings of every objective that the package has."""
    own = {name: kind for name, kind in known_objectives().items() if kind.__module__.startswith("napari_pcs.")}
    return "\n\n".join(_titled(f"`{name}`", kind.config_class) for name, kind in own.items())


def views() -> str:
    """How far views differ unless an objective says otherwise."""
    return "\n\n".join(
        [
            _titled("`views.volume`: hemispheres", Augmentation3D),
            _titled("`views.image`: images", Augmentation2D),
        ]
    )


def recipes() -> str:
    """What every recipe is and costs."""
    found = {name: read_recipe(name) for name in RECIPES}
    lines = ["| recipe | what it is | what it costs |", "|---|---|---|"]
    lines += [f"| `{name}` | {_cell(r.summary)} | {_cell(r.cost)} |" for name, r in found.items()]
    return "\n".join(lines)


def notes() -> str:
    """What is unclear in a publication, by recipe."""
    return "\n".join(f"- `{name}`: {note}" for name in RECIPES for note in read_recipe(name).notes)


def tuning() -> str:
    """Settings of tuning."""
    return "\n".join([*_HEAD, *rows(TuneConfig)])


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "how-to/pretrain.md": {"recipes": recipes},
    "reference/pretraining.md": {
        "stage": stage,
        "networks": networks,
        "objectives": objectives,
        "views": views,
        "notes": notes,
    },
    "reference/tuning.md": {"tuning": tuning},
}


def rows(kind: type[BaseModel], *, leave_out: set[str] = frozenset(), above: str = "") -> Iterator[str]:  # type: ignore[assignment]
    """Yield a row for each setting, those of settings within settings by their path."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if name in leave_out or name == "architecture":
            continue
        if inner is ViewSettings:
            yield f"| `{above}{name}` | {_changed(field)} | | {_cell(field.description or '')} |"
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from rows(inner, above=f"{above}{name}.")
        else:
            cells = f"`{above}{name}`", _default(field), _allowed(field), _cell(_said(field))
            yield f"| {' | '.join(cells)} |"


def _titled(title: str, kind: type[BaseModel]) -> str:
    found = list(rows(kind))
    return "\n".join([f"### {title}", "", *([*_HEAD, *found] if found else ["It has no settings."])])


def _said(field: FieldInfo) -> str:
    return f"{field.title}. {field.description or ''}".strip() if field.title else field.description or ""


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "the recipe's"
    value = round(default, 4) if isinstance(default, float) else default
    return f"`{json.dumps(value)}`"


def _changed(field: FieldInfo) -> str:
    """Say how an objective's own views differ from the usual ones."""
    usual, own = ViewSettings().model_dump(), field.default.model_dump()
    changes = {k: {n: v for n, v in own[k].items() if v != usual[k][n]} for k in own}
    changes = {k: v for k, v in changes.items() if v}
    return f"`{json.dumps(changes)}`" if changes else "see [Views](#views)"


def _allowed(field: FieldInfo) -> str:
    chosen = [v for part in _parts(field.annotation) if get_origin(part) is Literal for v in get_args(part)]
    if chosen:
        return ", ".join(f"`{json.dumps(v)}`" for v in chosen)
    if field.annotation is bool:
        return "`true`, `false`"
    bounds = {n: getattr(m, n) for m in field.metadata for n in _WORDS if hasattr(m, n)}
    words = [f"{word} {bounds[n]:.10g}" for n, word in _WORDS.items() if n in bounds]
    if type(None) in _parts(field.annotation):
        words = [*words, "or `null`"]
    return " ".join(words)


def _parts(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if get_origin(annotation) is Literal else get_args(annotation)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def written(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """Return a page with its blocks filled in."""
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda m, block=block: f"{m[1]}{block()}\n{m[2]}", text)
        assert count == 1, f"expected one place for {name}, found {count}"
    return text


if __name__ == "__main__":
    for page, its_blocks in PAGES.items():
        path = DOCS / page
        path.write_text(written(path.read_text(), its_blocks))
