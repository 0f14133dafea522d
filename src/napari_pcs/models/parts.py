"""Names of a network's parts, without what it takes to build one."""

from __future__ import annotations

from typing import Literal

__all__ = ["PARTS", "PartName"]

PartName = Literal["stem", "encoder", "decoder", "heads"]
PARTS: tuple[PartName, ...] = ("stem", "encoder", "decoder", "heads")
"""From the input to the output."""
