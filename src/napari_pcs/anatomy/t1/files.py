"""What the two processes call the files that they exchange; importing it costs nothing."""

__all__ = ["RESULT", "SCAN"]

SCAN, RESULT = "scan.npz", "result.npz"
