import networkx as nx
import numpy as np
import pytest
from builders import skeleton_of

from napari_pcs.anatomy.foldgraph import FoldGraph
from napari_pcs.anatomy.hull import depth_below_hull
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

AFFINE = np.array([[1.0, 0, 0, -10], [0, 1, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1]])


def strip():
    """A sheet of 30 x 6 mm in three labelled thirds; depth grows with x from 1 to 6 mm."""
    labels = np.zeros((20, 40, 9), np.int32)
    for third in range(3):
        labels[5:11, 5 + 10 * third : 15 + 10 * third, 4] = third + 1
    depth = np.clip(np.arange(20.0) - 4, 0, None)[:, None, None] * np.ones((1, 40, 9))
    return FoldGraph.from_labels(labels, AFFINE, depth.astype(np.float32))


def test_a_piece_is_described_in_mm():
    piece = strip().piece(2)
    assert (piece.voxels, piece.area_mm2) == (60, pytest.approx(60, rel=0.02))
    assert (piece.depth_mean_mm, piece.depth_max_mm) == (pytest.approx(3.5), 6)
    assert piece.centre_mm == pytest.approx((-2.5, -0.5, 9))
    assert np.abs(piece.normal) == pytest.approx((0, 0, 1), abs=1e-6)
    assert piece.hull_length_mm == pytest.approx(10, abs=0.6)
    # The hull side is where depth is least, at x = 5 voxels, which is -5 mm.
    assert np.array(piece.hull_line)[:, 0].max() < -3.5


def test_pieces_that_touch_are_neighbours():
    graph = strip().graph
    assert set(graph.edges) == {(1, 2), (2, 3)}
    assert graph.edges[1, 2]["border_voxels"] == 12


def test_merging_joins_sheets_and_keeps_the_lowest_id():
    before = strip()
    merged = before.merge([3, 2])
    assert sorted(merged.graph) == [1, 2]
    assert merged.piece(2).area_mm2 == pytest.approx(120, rel=0.02)
    assert merged.piece(2).hull_length_mm == pytest.approx(20, abs=0.6)
    assert set(merged.graph.edges) == {(1, 2)}
    assert sorted(before.graph) == [1, 2, 3]
    np.testing.assert_array_equal(before.labels, strip().labels)


def test_splitting_halfway_undoes_a_merge():
    first = strip()
    again = first.merge([1, 2]).split(1, (10, 5, 4), (10, 24, 4))
    assert sorted(again.graph) == [1, 3, 4]
    assert again.piece(1).voxels == again.piece(4).voxels == 60
    np.testing.assert_array_equal(again.labels == 4, first.labels == 2)
    assert set(again.graph.edges) == {(1, 4), (3, 4)}


@pytest.mark.parametrize("numbers", [[1], [1, 1], [1, 3]])
def test_only_pieces_that_hang_together_can_be_merged(numbers):
    with pytest.raises(InputError, match="do not all touch"):
        strip().merge(numbers)


def test_a_piece_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no fold piece 9"):
        strip().merge([1, 9])


@pytest.mark.parametrize("second", [(10, 5, 4), (10, 30, 4), (0, 0, 0)])
def test_splitting_needs_two_voxels_of_the_piece(second):
    with pytest.raises(InputError, match="not two voxels of one fold piece"):
        strip().split(1, (10, 5, 4), second)


def test_the_table_has_one_row_a_piece_and_names_the_neighbours():
    header, *rows = [line.split("\t") for line in strip().table().splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert all(len(row) == len(header) for row in rows)
    assert [row[header.index("neighbours")] for row in rows] == ["2", "1,3", "2"]
    assert float(rows[1][header.index("centre_z")]) == 9


def test_the_folds_of_the_phantom_are_pieces_of_their_own():
    case = phantom(Hemisphere.LEFT, pcs_length_mm=60, spacing_mm=1.0)
    reference = next(iter(case.labels.values())).data
    folds = FoldGraph.of(case, skeleton_of(case))
    lengths = []
    for label in (2, 1):
        grown = np.argwhere(reference == label)
        found = folds.labels[tuple(grown.T)]
        lengths.append(np.bincount(found[found > 0]).argmax())
    pcs, other = (folds.piece(int(n)) for n in lengths)
    assert pcs.id != other.id
    assert pcs.hull_length_mm == pytest.approx(60, abs=6)
    assert 5 < pcs.depth_max_mm < 16
    assert nx.number_of_nodes(folds.graph) >= 8


def test_depth_grows_from_the_hull_inwards_and_is_0_outside():
    tissue = np.zeros((40, 40, 40), bool)
    tissue[8:32, 8:32, 8:32] = True
    tissue[19:21, 8:32, 20:32] = False
    depth = depth_below_hull(tissue, (1.0, 1.0, 1.0))
    # The slit is closed by the hull; its depth counts from where it opens.
    assert depth[20, 20, 22] == pytest.approx(10, abs=1)
    assert (np.diff(depth[20, 20, 22:32]) < 0).all()
    assert depth[2, 20, 20] == 0
