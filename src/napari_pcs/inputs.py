"""What a command is given, as a list: scans, folders of scans, and cases of sessions. No voxel is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_pcs.anatomy.sources import find_in_folder, find_sources
from napari_pcs.data.listing import find_hemispheres
from napari_pcs.errors import InputError, PcsError
from napari_pcs.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_pcs.anatomy.sources import Source
    from napari_pcs.bids import CaseKey
    from napari_pcs.labels import Hemisphere

__all__ = ["Refused", "Scan", "Stored", "find_inputs"]


@dataclass(frozen=True)
class Scan:
    """A file, or a subject's folder.

    Attributes
    ----------
    path
        The file or folder.
    hemisphere
        Side to take; all that it holds if None.
    source
        What it was recognised as; None if that needs its content.
    """

    path: Path
    hemisphere: Hemisphere | None = None
    source: Source | None = None

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        return self.path.name

    def sources(self) -> tuple[Source, ...]:
        """Recognise it.

        Raises
        ------
        InputError
            If it is nothing that is understood, or does not hold the side.
        """
        if self.source is None:
            return find_sources(self.path, self.hemisphere)
        side = None if self.hemisphere is None else (self.hemisphere,)
        return (replace(self.source, hemispheres=self.source.choose(side)),)


@dataclass(frozen=True)
class Stored:
    """A case that a session has.

    Attributes
    ----------
    path
        The session's folder.
    key
        Of the case.
    """

    path: Path
    key: CaseKey

    @property
    def name(self) -> str:
        """Stem of the key."""
        return self.key.stem


@dataclass(frozen=True)
class Refused:
    """A path that holds nothing that can be taken.

    Attributes
    ----------
    path
        The file or folder.
    error
        Why not.
    """

    path: Path
    error: PcsError

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        return self.path.name


def find_inputs(paths: Sequence[Path], hemisphere: Hemisphere | None = None) -> list[Scan | Stored | Refused]:
    """List what paths hold, each thing once, in the order given.

    A folder may be a session, a subject, a folder of subjects or a BIDS dataset; of any other, the
    hemispheres below it are taken, by the names of their files.

    Parameters
    ----------
    paths
        Files and folders.
    hemisphere
        Side to take; all if None.

    Returns
    -------
    list
        For a path of which nothing can be taken, the reason.
    """
    found: dict[object, Scan | Stored | Refused] = {}
    for path in paths:
        for one in _at(path, hemisphere):
            found.setdefault(_identity(one), one)
    return list(found.values())


def _at(path: Path, hemisphere: Hemisphere | None) -> list[Scan | Stored | Refused]:
    try:
        return _inside(path, hemisphere) if path.is_dir() else [Scan(path, hemisphere)]
    except PcsError as error:
        return [Refused(path, error)]


def _inside(folder: Path, hemisphere: Hemisphere | None) -> list[Scan | Stored | Refused]:
    if (folder / "session.json").is_file():
        return _stored(folder, hemisphere)
    if sources := find_in_folder(folder):
        return [Scan(source.path, hemisphere, source) for source in sources]
    listed = find_hemispheres(folder).hemispheres
    if not listed:
        find_sources(folder)  # raises what it found instead
    wanted = [one for one in listed if hemisphere is None or one.hemisphere in {None, hemisphere}]
    return [Scan(one.source.path if one.source else Path(one.files[0]), hemisphere, one.source) for one in wanted]


def _stored(folder: Path, hemisphere: Hemisphere | None) -> list[Scan | Stored | Refused]:
    keys = [key for key in Session.open(folder).keys() if hemisphere in {None, key.hemisphere}]  # noqa: SIM118
    if not keys:
        raise InputError(
            found="a session without cases" if hemisphere is None else f"a session without {hemisphere.value} cases",
            expected="one or more",
            advice="Open hemispheres in it first, or give their files.",
            path=folder,
        )
    return [Stored(folder, key) for key in keys]


def _identity(one: Scan | Stored | Refused) -> object:
    """Return what two ways to name the same thing have in common."""
    return (one.path.resolve(), one.key) if isinstance(one, Stored) else one.path.resolve()
