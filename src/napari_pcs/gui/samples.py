"""Sample hemispheres as napari's File > Open Sample gives them: plain layers."""

from __future__ import annotations

from typing import Any

from napari_pcs.case import LabelRole
from napari_pcs.data.samples import sample

__all__ = ["mni152_left", "mni152_right", "phantom_absent", "phantom_present", "phantom_small"]

LayerData = tuple[Any, dict[str, Any], str]


def _layers(name: str) -> list[LayerData]:
    case = sample(name)
    grid = {
        "scale": case.tissue.spacing,
        "translate": tuple(case.tissue.affine[:3, 3]),
        "units": ("mm",) * 3,
        "axis_labels": ("x", "y", "z"),
    }
    layers: list[LayerData] = [(case.image.data, {"name": case.key.stem, "colormap": "gray", **grid}, "image")]
    if LabelRole.REFERENCE in case.labels:
        labels = case.labels[LabelRole.REFERENCE].data
        layers.append((labels, {"name": f"{case.key.stem} reference", "opacity": 0.6, **grid}, "labels"))
    else:
        layers.append((case.tissue.data, {"name": f"{case.key.stem} tissue", "opacity": 0.2, **grid}, "labels"))
    return layers


def mni152_left() -> list[LayerData]:
    """Left hemisphere of the MNI152 template."""
    return _layers("mni152-left")


def mni152_right() -> list[LayerData]:
    """Right hemisphere of the MNI152 template."""
    return _layers("mni152-right")


def phantom_absent() -> list[LayerData]:
    """Phantom without PCS."""
    return _layers("phantom-0mm")


def phantom_small() -> list[LayerData]:
    """Phantom with a PCS of 30 mm."""
    return _layers("phantom-30mm")


def phantom_present() -> list[LayerData]:
    """Phantom with a PCS of 60 mm."""
    return _layers("phantom-60mm")
