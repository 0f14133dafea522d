"""MONAI without transformers, in processes of the package's own.

Where transformers is installed, as peft needs it, MONAI imports it for one of its networks, which is
not used here: two fifths of the time until a network can be loaded. MONAI does without it, and peft
finds it later all the same. A viewer is shared with others, who may want that network: it is left alone.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["spare_transformers"]

_UNWANTED, _BY = "transformers", "monai"


def spare_transformers() -> None:
    """From now on, let MONAI be imported without transformers; everything else finds it as ever."""
    if not any(isinstance(finder, _Refusing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Refusing())


class _Refusing(MetaPathFinder, Loader):
    """Finds transformers while MONAI is imported, and fails to load it."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == _UNWANTED and _is_being_imported(_BY) else None

    def exec_module(self, module: ModuleType) -> None:
        msg = f"{module.__name__} is not imported for {_BY}."
        raise ModuleNotFoundError(msg, name=module.__name__)


def _is_being_imported(name: str) -> bool:
    # What importlib itself goes by (`_find_and_load`).
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))
