"""Read a hemisphere from files: a tissue map, an image to show and reference labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_pcs.anatomy.landmarks import commissures_in_file
from napari_pcs.anatomy.location import locate
from napari_pcs.anatomy.tissue import recognise
from napari_pcs.bids import parse_key
from napari_pcs.case import Case, LabelRole
from napari_pcs.provenance import Provenance
from napari_pcs.volume import Volume, check_same_grid

if TYPE_CHECKING:
    from pathlib import Path

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
        If a file cannot be read or recognised, lies on another grid, or the side is unknown.
    """
    key = parse_key(tissue, hemisphere)
    volume = Volume.read(tissue)
    data, kind = recognise(volume, key.hemisphere)
    # The recognised map keeps the path: it is the same hemisphere in another coding.
    mapped = Volume(data, volume.affine, volume.header, volume.orientation, volume.path)
    case = Case(key, mapped, Volume.read(image) if image else mapped)
    if reference:
        labels = Volume.read(reference, may_be_empty=True)
        check_same_grid(mapped, labels, "reference labels")
        provenance = Provenance(manual=True, hemisphere=key.hemisphere.value, sources=(str(reference),))
        case = case.with_labels(LabelRole.REFERENCE, labels.data, provenance)
    case, _ = locate(replace(case, commissures=commissures_in_file(volume)))
    return case, kind
