"""Label the paracingulate sulcus in napari: predict, correct, tune, report.

Importing the package loads neither torch nor Qt nor napari.
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("napari-pcs")
