"""Sulcal anatomy on a hemisphere's own grid: frame, skeleton, length, proposal."""
