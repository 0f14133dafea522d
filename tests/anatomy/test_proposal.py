from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from napari_pcs.anatomy.callosum import CENTRE_MM, arc_coordinates
from napari_pcs.anatomy.foldgraph import FoldGraph
from napari_pcs.anatomy.folds import cut_into_pieces
from napari_pcs.anatomy.priors import FrequencyMap, Priors
from napari_pcs.anatomy.proposal import ProposalRule, propose_pcs
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.errors import FrameUnknownError, InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.volume import Volume

SHAPE = (40, 150, 130)
CALLOSUM_MM = 30.0
"""Radius about the centre at which the callosum of these brains ends."""


def affine(side):
    matrix = np.diag([1.0, 1, 1, 1])
    matrix[:3, 3] = (-38 if side is Hemisphere.LEFT else -1, -60, -40)
    return matrix


def mm(side):
    index = np.indices(SHAPE).reshape(3, -1).T
    return index + affine(side)[:3, 3]


def brain(radii, side=Hemisphere.LEFT, *, degrees=(20, 110), known=True):
    """A slab of white matter with a callosum at the midline, and arcs of skeleton at these radii (mm) about it."""
    where = mm(side)
    y, z = where[:, 1] - CENTRE_MM[0], where[:, 2] - CENTRE_MM[1]
    radius, angle = np.hypot(y, z), np.degrees(np.arctan2(z, y))
    lateral = np.abs(where[:, 0])
    callosum = (lateral <= 3) & (radius <= CALLOSUM_MM) & (radius >= CALLOSUM_MM - 8) & (z > -20)
    tissue = np.where((lateral > 15) | callosum, 2, 1).astype(np.uint8).reshape(SHAPE)
    arcs = np.zeros(len(where), bool)
    for r in radii:
        arcs |= (
            (np.abs(radius - r) <= 0.6) & (angle > degrees[0]) & (angle < degrees[1]) & (lateral >= 3) & (lateral < 13)
        )
    frame = Commissures.from_mni(np.eye(4), FrameSource.WORLD) if known else None
    volume = Volume.from_array(tissue, affine(side))
    case = Case(CaseKey("b", "", side), volume, volume, commissures=frame)
    pieces = cut_into_pieces(arcs.reshape(SHAPE), (1.0, 1.0, 1.0))
    return case, FoldGraph(pieces, affine(side), np.zeros(SHAPE, np.float32), nx.Graph()), radius.reshape(SHAPE)


def everywhere(share):
    """The same share of people at every point."""
    to_index = np.linalg.inv(np.array([[2.0, 0, 0, -100], [0, 2, 0, -100], [0, 0, 2, -100], [0, 0, 0, 1]]))
    return FrequencyMap(np.full((100, 100, 100), share, np.float32), to_index)


PRIORS = Priors(everywhere(0.8), everywhere(0.4), None, "test")
SIDES = list(Hemisphere)


@pytest.mark.parametrize("side", SIDES)
def test_the_sheet_beyond_the_cingulate_is_proposed_whole_and_no_other(side):
    case, folds, radius = brain([33, 44, 54], side)
    pcs = propose_pcs(case, folds, PRIORS)
    np.testing.assert_array_equal(pcs, (folds.labels > 0) & (radius > 50))


def test_a_single_sheet_is_the_cingulate_however_often_a_pcs_is_there():
    case, folds, _ = brain([33, 46])
    assert not propose_pcs(case, folds, PRIORS).any()


def test_the_callosal_sulcus_does_not_make_the_next_sheet_a_pcs():
    # 33 mm lies 3 mm from the callosum: it is the callosal sulcus, though a sheet inside of the other.
    case, folds, _ = brain([33, 50])
    assert not propose_pcs(case, folds, PRIORS).any()


def test_a_sheet_is_proposed_only_as_far_as_a_cingulate_lies_inside():
    case, folds, radius = brain([54], degrees=(20, 110))
    _, inside, _ = brain([44], degrees=(20, 65))
    both = np.where(folds.labels > 0, folds.labels, (inside.labels > 0) * 2)
    folds = FoldGraph(both.astype(np.int32), folds.affine, folds.depth, nx.Graph())
    pcs = propose_pcs(case, folds, PRIORS, ProposalRule(window_deg=2))
    share = np.count_nonzero(pcs) / np.count_nonzero((both > 0) & (radius > 50))
    assert share == pytest.approx(45 / 90, abs=0.1)


def test_nothing_is_proposed_where_raters_never_find_a_pcs():
    case, folds, _ = brain([33, 44, 54])
    assert not propose_pcs(case, folds, PRIORS._replace(pcs=everywhere(0.0))).any()
    assert not propose_pcs(case, folds, PRIORS._replace(pcs=everywhere(0.1), cingulate=everywhere(0.9))).any()


def test_a_sheet_that_stands_across_is_no_pcs():
    case, folds, radius = brain([33, 44])
    labels = folds.labels.copy()
    top = int(np.round(60 + CENTRE_MM[0]))
    labels[25:36, top, 94:120] = labels.max() + 1
    across = FoldGraph(labels, folds.affine, folds.depth, nx.Graph())
    assert radius[30, top, 100] > 54
    assert not propose_pcs(case, across, PRIORS).any()


def test_the_right_side_mirrors_the_left():
    found = []
    for side in SIDES:
        case, folds, _ = brain([33, 44, 54], side)
        found.append(propose_pcs(case, folds, PRIORS))
    np.testing.assert_array_equal(found[0][:39], found[1][1:40][::-1])


def test_the_thresholds_are_the_callers():
    case, folds, _ = brain([33, 44, 54])
    assert not propose_pcs(case, folds, PRIORS, ProposalRule(min_step_mm=12)).any()


def test_without_commissures_or_callosum_there_is_no_proposal():
    case, folds, _ = brain([44, 54], known=False)
    with pytest.raises(FrameUnknownError, match="no AC, PC"):
        propose_pcs(case, folds, PRIORS)
    known, _, _ = brain([44, 54])
    grey = known.tissue.with_data(np.ones(SHAPE, np.uint8))
    with pytest.raises(InputError, match="corpus callosum"):
        propose_pcs(replace(known, tissue=grey, image=grey), folds, PRIORS)


def test_gaps_are_counted_from_this_persons_callosum():
    case, _, _ = brain([44])
    points = np.array([[-5.0, CENTRE_MM[0], CENTRE_MM[1] + r] for r in (30, 44, 60)])
    arc = arc_coordinates(case.tissue.data == 2, case.tissue.affine, points)
    assert arc.angle == pytest.approx([90, 90, 90])
    assert arc.radius == pytest.approx([30, 44, 60])
    assert arc.gap == pytest.approx([0, 14, 30], abs=1)
