"""What a session holds beside its cases: the files that make a folder a BIDS derivative, and sidecars."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from napari_pcs import __version__
from napari_pcs.errors import InputError
from napari_pcs.files import json_bytes
from napari_pcs.labels import LABELS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "SCHEMA_VERSION",
    "file_state",
    "is_listed",
    "listed_people",
    "new_run_folder",
    "new_session",
    "participants",
    "read_sidecar",
    "sidecar_path",
]

SCHEMA_VERSION = 1
_DESCRIPTIONS = {
    "gw": "grey/white map: 0 outside and fluid, 100 grey, 200 white",
    "skel": "sulcal skeleton extracted from the grey/white map",
    "folds": "fold pieces: the skeleton cut at junctions and sharp bends, one id a piece",
    "prop": "labels proposed by rule, without a network; nobody has looked at them",
    "pred": "labels predicted by a model",
    "corr": "labels corrected by a person",
    "ref": "reference labels that came with the case",
}


def new_run_folder(root: Path, what: str) -> Path:
    """Return a folder below `root` that does not exist yet, for the record of one run."""
    now = datetime.now(UTC)
    # To the millisecond: two runs begun in the same second are two.
    stamp = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}"
    names = (f"{stamp}_{what}" if n == 1 else f"{stamp}-{n}_{what}" for n in count(1))
    return next(run for name in names if not (run := root / "runs" / name).exists())


def new_session(root: Path) -> dict[Path, bytes]:
    """Return the files of an empty session; `session.json` comes last and makes it one."""
    description = {
        "Name": root.name,
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "napari-pcs", "Version": __version__}],
    }
    labels = [(str(int(e.label)), e.name, e.abbreviation, e.color[:7]) for e in LABELS]
    ignored = ("models/", "runs/", "session.json", "*_edits.jsonl", "*_probseg.nii.gz")
    return {
        root / "dataset_description.json": json_bytes(description),
        root / "participants.tsv": _tsv([("participant_id",)]).encode(),
        root / "descriptions.tsv": _tsv([("desc_id", "description"), *_DESCRIPTIONS.items()]).encode(),
        root / "dseg.tsv": _tsv([("index", "name", "abbreviation", "color"), *labels]).encode(),
        root / ".bidsignore": "".join(f"{line}\n" for line in ignored).encode(),
        root / "session.json": json_bytes({"schema_version": SCHEMA_VERSION}),
    }


def sidecar_path(path: Path) -> Path:
    """Return the path of the JSON sidecar of a volume of a session."""
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read the JSON sidecar of a volume.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    try:
        return dict(json.loads(sidecar_path(path).read_text()).items())
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(found="no readable sidecar", expected="the JSON file written beside it", path=path) from error


def file_state(path: Path) -> dict[str, object]:
    """Return what tells that a file or folder is still the one that it was: its path, size and time of change.

    A folder changes with any of the files below it.

    Raises
    ------
    OSError
        If it is not there.
    """
    states = [path.stat()]
    if path.is_dir():
        states += [found.stat() for found in path.rglob("*") if found.is_file()]
    size, changed = sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)
    return {"Path": str(path.resolve()), "Size": size, "ModifiedNs": changed}


def participants(people: set[str], known: str | None = None) -> bytes:
    """Return `participants.tsv` for these people.

    Parameters
    ----------
    people
        Subjects, without `sub-`.
    known
        The file as it is: what somebody has added of a person in further columns stays.
    """
    rows = [line.split("\t") for line in known.splitlines()] if known else []
    head = rows[0] if rows and rows[0][0] == "participant_id" else ["participant_id"]
    about = {row[0]: row for row in rows[1:]}
    names = sorted(f"sub-{p}" for p in people)
    return _tsv([head, *(about.get(name, [name, *["n/a"] * (len(head) - 1)]) for name in names)]).encode()


def listed_people(known: str) -> set[str]:
    """Return the subjects, without `sub-`, of a `participants.tsv`."""
    return {line.split("\t")[0].removeprefix("sub-") for line in known.splitlines()[1:] if line.startswith("sub-")}


def is_listed(subject: str, known: str) -> bool:
    """Say whether a subject, without `sub-`, is in a `participants.tsv`; no line is taken apart."""
    return any(f"\nsub-{subject}{end}" in f"{known}\n" for end in ("\n", "\t"))


def _tsv(rows: list[Any]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)
