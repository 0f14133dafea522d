"""A proposal of the PCS without a network: which parts of which fold pieces raters would call so.

Position alone does not separate the PCS from the cingulate sulcus, whose frequency maps overlap;
the order of the sulci outward from the corpus callosum does. Around the callosum of the person at
hand, the first parallel sheet is the callosal sulcus, the next the cingulate, and one that follows
it further out, where raters find a PCS, is proposed. Pieces are decided level by level along their
length, so that a piece which is PCS for half of its length is marked for that half.

A proposal is a weak label: nobody has looked at it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from napari_pcs.anatomy.callosum import ArcCoordinates, arc_coordinates
from napari_pcs.anatomy.line import STEP_MM, levels_along, voxel_graph
from napari_pcs.anatomy.mni import to_mni
from napari_pcs.anatomy.sheets import local_shape
from napari_pcs.anatomy.tissue import WHITE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from napari_pcs.anatomy.foldgraph import FoldGraph
    from napari_pcs.anatomy.priors import Priors
    from napari_pcs.case import Case

__all__ = ["ProposalRule", "propose_pcs"]

_ZONE_MM = ((0.0, 18.0), (-30.0, 78.0), (-28.0, 88.0))
"""Distance from the midline, y and z in MNI152 that hold every sulcus of concern here."""
_POSTERIOR_WEIGHT = 0.6
"""The posterior cingulate map counts less: it borders the zone in which a PCS may lie."""
_ANGLES, _FIRST_DEG = 250, -60
_RINGS_PER_MM, _RINGS = 2, 120
_SLAB_MM = 3.0
_SMOOTHING_LEVELS = 1.5


class ProposalRule(BaseModel):
    """Thresholds of the proposal; distances in mm of MNI152.

    The defaults were chosen among some 170 combinations so that the proposals on 110 hemispheres of 55
    people are about as frequent and as long as the sulci that raters found in 120 other people, and
    among those for repeatability: a fit to population figures, not to anybody's labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_parallel: float = Field(0.5, title="Parallel", description="Cosine between normal and outward direction.")
    min_frequency: float = Field(0.1, title="Least frequency of a PCS, as a share of the map's maximum")
    min_share: float = Field(0.45, title="Least share of the PCS among PCS and cingulate frequency")
    cingulate_weight: float = Field(0.8, title="Weight of the cingulate frequency in that share")
    callosal_mm: float = Field(5.0, title="Callosal sulcus", description="A sheet this near the callosum is its own.")
    min_gap_mm: float = Field(12.0, title="Least distance from the callosum")
    min_step_mm: float = Field(5.0, title="Least distance from the cingulate sheet inside")
    window_deg: int = Field(10, title="How far to either side that sheet is looked for")
    level_score: float = Field(0.4, title="Least mean score of a level")
    seed_score: float = Field(0.6, title="Least mean score of the best level of a stretch")
    min_run_mm: float = Field(8.0, title="Shortest stretch that is kept")


class _Sheets(NamedTuple):
    """Skeleton voxels of the medial frontal zone and where they lie."""

    voxels: NDArray[np.intp]
    piece: NDArray[np.int32]
    mni: NDArray[np.float64]
    arc: ArcCoordinates
    parallel: NDArray[np.float64]


def propose_pcs(case: Case, folds: FoldGraph, priors: Priors, rule: ProposalRule | None = None) -> NDArray[np.bool_]:
    """Mark the parts of fold pieces that are probably PCS.

    Parameters
    ----------
    case
        With its commissures.
    folds
        Its fold pieces.
    priors
        Frequency maps of the same hemisphere.
    rule
        Thresholds.

    Returns
    -------
    numpy.ndarray
        Boolean volume, axes (x, y, z), a subset of the pieces.

    Raises
    ------
    FrameUnknownError
        If nobody knows the commissures.
    InputError
        If there is no corpus callosum where it should be.
    """
    rule = rule or ProposalRule()
    sheets = _sheets(case, folds)
    scores = _scores(sheets, priors, rule)
    proposed = np.zeros(folds.labels.shape, dtype=bool)
    for piece in np.unique(sheets.piece[scores >= rule.seed_score]):
        members = sheets.piece == piece
        chosen = _stretches(sheets.voxels[members], scores[members], case.tissue.spacing, rule)
        proposed[tuple(sheets.voxels[members][chosen].T)] = True
    return proposed


def _sheets(case: Case, folds: FoldGraph) -> _Sheets:
    affine = to_mni(case)
    index = np.argwhere(folds.labels > 0)
    mni = index @ affine[:3, :3].T + affine[:3, 3]
    place = np.stack([np.abs(mni[:, 0]), mni[:, 1], mni[:, 2]], axis=1)
    low, high = np.array(_ZONE_MM).T
    near = ((place >= low) & (place <= high)).all(axis=1)
    index, mni = index[near], mni[near]
    arc = arc_coordinates(case.tissue.data == WHITE, affine, mni)
    normals = local_shape(folds.labels > 0, index, case.tissue.spacing).normals
    # A normal is a covector: it goes over with the inverse transpose.
    spacing = np.asarray(case.tissue.spacing)
    turned = normals @ np.linalg.inv(affine[:3, :3] / spacing)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    outward = np.radians(arc.angle)
    parallel = np.abs(turned[:, 1] * np.cos(outward) + turned[:, 2] * np.sin(outward))
    return _Sheets(index, folds.labels[tuple(index.T)], mni, arc, parallel)


def _scores(sheets: _Sheets, priors: Priors, rule: ProposalRule) -> NDArray[np.float64]:
    """How well each voxel qualifies, 0 to 1: the product of soft thresholds, so that none decides by a hair."""
    pcs, cingulate = priors.pcs.at(sheets.mni), priors.cingulate.at(sheets.mni)
    if priors.cingulate_posterior is not None:
        cingulate = np.maximum(cingulate, _POSTERIOR_WEIGHT * priors.cingulate_posterior.at(sheets.mni))
    share = pcs / np.maximum(pcs + rule.cingulate_weight * cingulate, 1e-6)
    beyond = sheets.arc.gap - _innermost(sheets, sheets.parallel > rule.min_parallel, rule)
    criteria = (
        (sheets.parallel, rule.min_parallel, 0.1),
        (beyond, rule.min_step_mm, 1.0),
        (sheets.arc.gap, rule.min_gap_mm, 1.0),
        (pcs, rule.min_frequency, 0.03),
        (share, rule.min_share, 0.05),
    )
    return np.asarray(np.prod([expit((value - limit) / softness) for value, limit, softness in criteria], axis=0))


def _innermost(sheets: _Sheets, parallel: NDArray[np.bool_], rule: ProposalRule) -> NDArray[np.float64]:
    """Distance from the callosum of the innermost parallel sheet beyond the callosal sulcus, for every voxel.

    It is looked for in the same direction and in the same slab off the midline: a sheet that slants
    would else be taken for two.
    """
    gap = sheets.arc.gap
    angle = np.clip(np.round(sheets.arc.angle - _FIRST_DEG).astype(int), 0, _ANGLES - 1)
    slab = (np.abs(sheets.mni[:, 0]) / _SLAB_MM).astype(int)
    ring = np.clip(np.round(gap * _RINGS_PER_MM).astype(int), 0, _RINGS - 1)
    polar = np.zeros((_ANGLES, slab.max(initial=0) + 1, _RINGS), dtype=bool)
    inner = parallel & (gap >= rule.callosal_mm)
    polar[angle[inner], slab[inner], ring[inner]] = True
    around = ndimage.maximum_filter(polar, (2 * rule.window_deg + 1, 3, 1))
    first = np.where(around.any(axis=2), around.argmax(axis=2) / _RINGS_PER_MM, np.inf)
    return np.asarray(first[angle, slab])


def _stretches(
    index: NDArray[np.intp], scores: NDArray[np.float64], spacing: tuple[float, ...], rule: ProposalRule
) -> NDArray[np.bool_]:
    """Choose the levels along one piece that qualify over a long enough stretch.

    A stretch needs one level that qualifies clearly, and goes on as long as levels qualify at all.
    """
    chosen = np.zeros(len(index), dtype=bool)
    graph = voxel_graph(index, spacing)
    for part in _connected(graph):
        levels = [part[level] for level in levels_along(graph[part][:, part], np.zeros(len(part)))]
        for stretch in _runs(np.array([scores[level].mean() for level in levels]), rule):
            chosen[np.concatenate([levels[k] for k in stretch])] = True
    return chosen


def _runs(means: NDArray[np.float64], rule: ProposalRule) -> list[NDArray[np.intp]]:
    """Return the stretches of levels that are long enough, by hysteresis on the smoothed scores."""
    smooth = ndimage.gaussian_filter1d(means, _SMOOTHING_LEVELS, mode="nearest")
    runs, n = ndimage.label(smooth >= rule.level_score)
    found = [np.flatnonzero(runs == run) for run in range(1, n + 1)]
    long = [run for run in found if len(run) * STEP_MM >= rule.min_run_mm]
    return [run for run in long if smooth[run].max() >= rule.seed_score]


def _connected(graph: csr_array) -> list[NDArray[np.intp]]:
    """Nodes of each connected part: a piece may leave the zone and come back."""
    labels = connected_components(graph, directed=False)[1]
    return [np.flatnonzero(labels == n) for n in range(labels.max() + 1)]
