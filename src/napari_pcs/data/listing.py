"""Which hemispheres a folder holds, by the names of its files: no voxel is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from napari_pcs.anatomy.sources.freesurfer import FastSurferSubject, FreeSurferSubject
from napari_pcs.anatomy.sources.probability import named_pair
from napari_pcs.bids import parse_key
from napari_pcs.data.walk import walk
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

if TYPE_CHECKING:
    from napari_pcs.anatomy.sources.base import Source
    from napari_pcs.bids import CaseKey

__all__ = ["Found", "Listed", "find_hemispheres", "listed_source"]

_IMAGE = re.compile(r"\.nii(\.gz)?$")
_GREY_WHITE = re.compile(r"_gw\.nii|_desc-gw_dseg\.nii|^[LR]grey_white_|gr[ea]y_?white", re.IGNORECASE)
_RIBBON = re.compile(r"^(?![lr]h\.)(?:.*[_.-])?ribbon\.(?:mgz|nii|nii\.gz)$")
_OTHER = re.compile(
    r"(?:^|[_.-])(?:T1w?|T2w?|FLAIR|PDw?|bold|dwi|asl|epi|brain|norm|orig|nobias|brainmask|mask|probseg|pve|labels?"
    r"|seg-\w+|skel|\w?skeleton|folds|pred|prop|corr|ref|aseg|aparc|aparc\+aseg|sulci|GM|WM|CSF|w?r?c[1-6]\w*)(?=[_.-])",
    re.IGNORECASE,
)
_MOVED = re.compile(r"_space-(?!orig_|T1w_)|^[wr]{1,2}c[12]")
"""Resampled to a template: not the shape of this person."""
_SCAN = re.compile(r"(?:^|[_.-])(?:T1w?|nobias)(?=[_.-])", re.IGNORECASE)
_SIDE = re.compile(r"(?:^|_)hemi-[LR](?=_|$)|^[LR]grey_white_")
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")


class Listed(NamedTuple):
    """One hemisphere, recognised by name.

    Attributes
    ----------
    files
        What it is made from; the first one identifies it.
    name
        Its subject, session and side, or its file's name where the side is not known.
    person
        Whose it is.
    hemisphere
        Its side; None if no name says it.
    source
        How to read it where its files are of several kinds; None for a single map or a pair.
    """

    files: tuple[str, ...]
    name: str
    person: str
    hemisphere: Hemisphere | None
    source: Source | None = None


class Found(NamedTuple):
    """What a folder holds: hemispheres, how many files were left out in their favour, and T1 scans."""

    hemispheres: list[Listed]
    left_out: int
    scans: int


def find_hemispheres(folder: Path) -> Found:
    """List the hemispheres below a folder.

    Where files say in their names that they are grey/white maps (`_gw`, `desc-gw`, `Lgrey_white_`),
    only those are taken of all single files; else every NIfTI that is not named as something else.
    """
    certain: list[Listed] = []
    named: list[Path] = []
    unnamed: list[Path] = []
    left_out = scans = 0
    for directory, folders, all_names in walk(folder):
        if "mri" in folders and (subject := _subject(directory)):
            certain += [h for s in subject for h in listed_source(s)]
            folders.clear()
            continue
        folders[:] = [f for f in folders if not f.startswith("fsaverage")]
        names = {name for name in all_names if not _MOVED.search(name)}
        pairs = {p for name in names if (p := named_pair(directory / name)) and {q.name for q in p} <= names}
        certain += [h for pair in sorted(pairs) for h in _both(pair)]
        paired = {p.name for pair in pairs for p in pair}
        for name in sorted(names - paired):
            path = directory / name
            if _RIBBON.search(name):
                certain += _both((path,))
            elif not _IMAGE.search(name):
                continue
            elif _GREY_WHITE.search(name):
                named.append(path)
            elif _OTHER.search(name):
                scans += bool(_SCAN.search(name))
            else:
                unnamed.append(path)
    if named:
        left_out, unnamed = len(unnamed), []
    return Found(_unique([*certain, *map(_map, named), *map(_map, unnamed)], folder), left_out, scans)


def listed_source(source: Source) -> list[Listed]:
    """List the hemispheres of a source that is recognised already."""
    path = source.path
    files: tuple[Path, ...] = (path,)
    if isinstance(source, FreeSurferSubject):
        files = tuple(p for name in source.segmentations if (p := path / "mri" / name).is_file())[:1]
    elif white := getattr(source, "white", None):
        files = (path, white)
    return [
        Listed(tuple(map(str, files)), source.key(side).stem, source.subject, side, source)
        for side in source.hemispheres
    ]


def _subject(folder: Path) -> tuple[Source, ...]:
    ribbon = any((folder / "mri" / name).is_file() for name in FreeSurferSubject.segmentations)
    aseg = any((folder / "mri" / name).is_file() for name in FastSurferSubject.segmentations)
    return FreeSurferSubject.find(folder) if ribbon else FastSurferSubject.find(folder) if aseg else ()


def _map(path: Path) -> Listed:
    try:
        key = parse_key(path)
    except InputError:
        return Listed((str(path),), path.name, parse_key(path, Hemisphere.LEFT).subject, None)
    return Listed((str(path),), key.stem, _person(path, key), key.hemisphere)


def _both(files: tuple[Path, ...]) -> list[Listed]:
    """List one or both sides of files that hold a whole brain unless their name says a side."""
    one = _map(files[0])
    sides = tuple(Hemisphere) if one.hemisphere is None else (one.hemisphere,)
    names = tuple(map(str, files))
    return [Listed(names, parse_key(files[0], s).stem, one.person, s) for s in sides]


def _person(path: Path, key: CaseKey) -> str:
    """Return whose a file is; without `sub-`, its name less the side, so that two sides are one person's."""
    name = path.name.split(".")[0]
    return key.subject if "sub-" in name else _NOT_ALPHANUMERIC.sub("", _SIDE.sub("", name)) or key.subject


def _unique(listed: list[Listed], root: Path) -> list[Listed]:
    """Name by its path what would bear the same name as another."""
    counts: dict[str, int] = {}
    for one in listed:
        counts[one.name] = counts.get(one.name, 0) + 1

    def named(one: Listed) -> Listed:
        if counts[one.name] == 1:
            return one
        side = f" {one.hemisphere}" if one.hemisphere else ""
        return one._replace(name=Path(one.files[0]).relative_to(root).as_posix() + side)

    return sorted((named(one) for one in listed), key=lambda one: (one.name, one.files))
