"""How much memory a container or a batch system leaves to this process (Linux control groups)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["memory_left"]

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def memory_left(root: Path = _ROOT, own: Path = _OWN) -> int | None:
    """Return the bytes that the control groups of this process still allow, None where they set no limit.

    A group's limit holds for all groups within it, so the least of all groups above this process
    counts. Pages that only cache files are given back when they are needed, so they are free.

    Parameters
    ----------
    root
        Where version 2 of control groups is mounted.
    own
        File that names the group of this process.
    """
    left = [rest for group in _groups(root, own) if (rest := _rest(group)) is not None]
    return max(0, min(left)) if left else None


def _groups(root: Path, own: Path) -> list[Path]:
    """Return the group of this process and all above it, as far as they can be seen."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    names = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    if not names:
        return []
    group = Path(names[0].lstrip("/"))
    # Within a container the name may be the host's, and the group itself is what is mounted.
    return [root / part for part in (group, *group.parents) if ".." not in part.parts]


def _rest(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text())
        return int(limit) - used + _reclaimable(group)
    except (OSError, ValueError):
        return None


def _reclaimable(group: Path) -> int:
    for line in (group / "memory.stat").read_text().splitlines():
        name, _, number = line.partition(" ")
        if name == "inactive_file":
            return int(number)
    return 0
