"""Where cases come from: one module for each format, and `find_sources`, which recognises them."""

from napari_pcs.anatomy.sources.base import Source
from napari_pcs.anatomy.sources.find import find_in_folder, find_sources

__all__ = ["Source", "find_in_folder", "find_sources"]
