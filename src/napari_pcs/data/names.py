"""Names of the sample hemispheres, without what it takes to build them."""

from __future__ import annotations

__all__ = ["PCS_LENGTHS_MM", "SAMPLES", "phantom_name"]

PCS_LENGTHS_MM = (0.0, 30.0, 60.0)
"""Lengths of the phantoms' paracingulate sulci: one for each class."""


def phantom_name(length_mm: float) -> str:
    """Return the sample name of the phantom with a PCS of this length."""
    return f"phantom-{length_mm:g}mm"


SAMPLES = ("mni152-left", "mni152-right", *(phantom_name(length) for length in PCS_LENGTHS_MM))
