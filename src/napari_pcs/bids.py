"""File names of a session: the BIDS derivative entities this software reads and writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

__all__ = ["CaseKey", "case_file", "file_ending", "parse_key"]

_ENTITY = re.compile(r"(?:^|_)(sub|ses|hemi)-([A-Za-z0-9]+)")
_MORPHOLOGIST = re.compile(r"^([LR])(?:grey_white|skeleton)_(.+)$")
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")


class CaseKey(NamedTuple):
    """Identity of a case: one hemisphere of one scan of one person. Hashable and ordered."""

    subject: str
    session: str
    hemisphere: Hemisphere

    @property
    def stem(self) -> str:
        """The beginning of every file name of this case: `sub-01_ses-2_hemi-L`."""
        session = f"_ses-{self.session}" if self.session else ""
        return f"sub-{self.subject}{session}_hemi-{self.hemisphere}"

    @property
    def folder(self) -> Path:
        """Folder of this case relative to its session."""
        person = Path(f"sub-{self.subject}")
        return (person / f"ses-{self.session}" if self.session else person) / "anat"


def parse_key(path: Path | str, hemisphere: Hemisphere | None = None) -> CaseKey:
    """Read the key of a case from a file name.

    Understands BIDS entities (`sub-01_hemi-L_...`) and Morphologist names (`Lgrey_white_01`); any
    other name becomes the subject. The side is never guessed.

    Parameters
    ----------
    path
        File name.
    hemisphere
        Side, where the caller knows it.

    Raises
    ------
    InputError
        If the side is neither in the name nor given, or the two disagree.
    """
    name = Path(path).name.split(".")[0]
    entities = dict(_ENTITY.findall(name))
    subject = entities.get("sub", "")
    side = entities.get("hemi")
    if not subject and (match := _MORPHOLOGIST.match(name)):
        side, subject = match.groups()
    subject = _NOT_ALPHANUMERIC.sub("", subject or name)
    named = Hemisphere(side) if side in set(Hemisphere) else None
    if named is None and hemisphere is None:
        raise InputError(
            found="a name that does not say which hemisphere it is",
            expected="hemi-L or hemi-R in the name",
            advice="Choose left or right yourself.",
            path=path,
        )
    if named and hemisphere and named != hemisphere:
        raise InputError(
            found=f"hemisphere {named.value} in the name",
            expected=f"{hemisphere.value}, as chosen",
            advice="Correct one of them.",
            path=path,
        )
    return CaseKey(subject, entities.get("ses", ""), hemisphere or named or Hemisphere.LEFT)


def case_file(key: CaseKey, description: str, suffix: str, *, segmentation: bool = False) -> Path:
    """Return the path of one volume of a case relative to its session."""
    return key.folder / f"{key.stem}{file_ending(description, suffix, segmentation=segmentation)}"


def file_ending(description: str, suffix: str, *, segmentation: bool = False) -> str:
    """Return what follows the case's stem in the name of one of its volumes."""
    seg = "_seg-sulci" if segmentation else ""
    return f"_space-orig{seg}_desc-{description}_{suffix}.nii.gz"
