"""Read a hemisphere from files: a tissue map, an image to show and reference labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_pcs.anatomy.checks import check_side
from napari_pcs.anatomy.location import locate
from napari_pcs.anatomy.sources.tissue_map import case_of
from napari_pcs.bids import parse_key
from napari_pcs.case import Case, LabelRole
from napari_pcs.errors import InputError
from napari_pcs.provenance import Provenance
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from napari_pcs.labels import Hemisphere

__all__ = ["read_case"]


def read_case(
    tissue: Path | str,
    *,
    hemisphere: Hemisphere | None = None,
    image: Path | str | None = None,
    reference: Path | str | None = None,
) -> tuple[Case, str]:
    """Read one hemisphere.

    Parameters
    ----------
    tissue
        Grey/white map, FreeSurfer ribbon or 0/1/2/3 tissue map.
    hemisphere
        Side; may be left out if the file name says it.
    image
        T1 on the same grid, to be shown; the tissue map itself otherwise.
    reference
        Reference labels on the same grid.

    Returns
    -------
    tuple
        The case, and the name of the convention its tissue map was recognised as.

    Raises
    ------
    InputError
        If a file cannot be read or recognised, lies on another grid, or the side is unknown
        or not what the map shows.
    """
    key = parse_key(tissue, hemisphere)
    case, kind = case_of(Volume.read(tissue), key)
    check_side(case.tissue, key.hemisphere)
    if image:
        case = replace(case, image=Volume.read(image))
    if reference:
        case = _with_reference(case, Path(reference))
    case, _ = locate(case)
    return case, kind


def _with_reference(case: Case, path: Path) -> Case:
    labels = Volume.read(path, may_be_empty=True)
    check_same_grid(case.tissue, labels, "reference labels")
    provenance = Provenance(manual=True, hemisphere=case.key.hemisphere.value, sources=(str(path),))
    try:
        return case.with_labels(LabelRole.REFERENCE, labels.data, provenance)
    except InputError as error:
        raise error.at(path) from None
