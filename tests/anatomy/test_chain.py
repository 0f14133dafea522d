from itertools import permutations

import numpy as np
import pytest

from napari_pcs.anatomy.chain import Chain, longest_chain


def straight(start, stop, step=2.0):
    """Polyline from one point to another, a point every 2 mm."""
    start, stop = np.asarray(start, float), np.asarray(stop, float)
    n = max(1, round(float(np.linalg.norm(stop - start)) / step))
    return start + np.linspace(0, 1, n + 1)[:, None] * (stop - start)


def along_y(first, last, z=0.0):
    return straight((0, first, z), (0, last, z))


def test_nothing_is_a_chain_of_0_mm():
    assert longest_chain([], 20) == Chain(0.0, (), ())


def test_one_line_is_its_own_chain():
    bent = np.vstack([along_y(0, 10), straight((0, 10, 0), (0, 10, 10))[1:]])
    assert longest_chain([bent], 20) == Chain(pytest.approx(20), (), (0,))


def test_a_gap_within_the_limit_is_bridged_counted_and_listed():
    found = longest_chain([along_y(0, 20), along_y(30, 50)], 20)
    assert found == Chain(pytest.approx(50), pytest.approx((10,)), (0, 1))


@pytest.mark.parametrize(("limit", "length"), [(9.99, 20), (10.0, 50), (0.0, 20)])
def test_the_limit_itself_is_still_bridged_and_what_exceeds_it_is_not(limit, length):
    found = longest_chain([along_y(0, 20), along_y(30, 50)], limit)
    assert found.length_mm == pytest.approx(length)
    assert len(found.gaps_mm) == (length == 50)


def test_without_bridges_the_longest_line_counts():
    assert longest_chain([along_y(0, 20), along_y(60, 90), along_y(130, 140)], 20) == Chain(pytest.approx(30), (), (1,))


def test_three_in_a_row_are_joined_by_the_two_short_gaps():
    found = longest_chain([along_y(0, 12), along_y(17, 29), along_y(38, 50)], 20)
    # 17 - 12 and 38 - 29; the outer two, 26 mm apart, are not joined once more.
    assert found == Chain(pytest.approx(50), pytest.approx((5, 9)), (0, 1, 2))


def test_gaps_are_listed_in_their_order_along_the_way():
    found = longest_chain([along_y(38, 50), along_y(0, 12), along_y(17, 29)], 20)
    assert found.gaps_mm in (pytest.approx((5, 9)), pytest.approx((9, 5)))
    assert found.members in ((0, 2, 1), (1, 2, 0))


@pytest.mark.parametrize("apart", [3.0, 6.0, 10.0])
def test_two_lines_side_by_side_are_not_added_up(apart):
    found = longest_chain([along_y(0, 40), along_y(0, 38, z=apart)], 20)
    # The longer one, or along it and across at its end: never 78 mm.
    assert 40 <= found.length_mm <= 40 + apart + 1e-9


def test_two_lines_whose_ends_overlap_are_walked_once():
    found = longest_chain([along_y(0, 30), along_y(20, 50, z=4.0)], 20)
    # From 0 to 50 across 4 mm, at right angles or a little obliquely.
    assert np.hypot(50, 4) <= found.length_mm <= 50 + 4
    assert found.members == (0, 1)
    assert len(found.gaps_mm) == 1


def test_a_side_branch_of_a_t_is_left_out():
    # 40 mm straight on; 20 mm up to the branch's foot, 5 mm over and 10 mm along it are shorter.
    found = longest_chain([along_y(0, 40), straight((0, 20, 5), (0, 20, 15))], 20)
    assert found == Chain(pytest.approx(40), (), (0,))


def test_a_long_side_branch_of_a_t_is_the_way():
    found = longest_chain([along_y(0, 40), straight((0, 20, 5), (0, 20, 45))], 20)
    # A gap costs 1.5 times as much as the line: the way leaves it 4 mm before the foot.
    assert found.length_mm == pytest.approx(16 + np.hypot(4, 5) + 40)
    assert found.gaps_mm == pytest.approx((np.hypot(4, 5),))


def test_a_chain_of_four_needs_only_its_neighbours_within_reach():
    lines = [along_y(25 * n, 25 * n + 10) for n in range(4)]
    found = longest_chain(lines, 15)
    assert found.length_mm == pytest.approx(85)
    assert found.gaps_mm == pytest.approx((15, 15, 15))
    assert longest_chain(lines, 14.9).length_mm == pytest.approx(10)


def test_the_longer_of_two_chains_counts():
    found = longest_chain([along_y(0, 10), along_y(15, 25), along_y(100, 118), along_y(121, 130)], 20)
    assert found.length_mm == pytest.approx(30)
    assert set(found.members) == {2, 3}


def test_a_long_line_beats_a_chain_of_short_ones():
    found = longest_chain([along_y(0, 10), along_y(15, 25), along_y(100, 140)], 20)
    assert found == Chain(pytest.approx(40), (), (2,))


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 0, 1), (1, 2, -2)])
def test_gaps_are_measured_in_space(direction):
    unit = np.asarray(direction) / np.linalg.norm(direction)
    lines = [straight(a * unit, b * unit) for a, b in ((0, 20), (32, 50))]
    assert longest_chain(lines, 15) == Chain(pytest.approx(50), pytest.approx((12,)), (0, 1))


SCENES = {
    "row": [along_y(0, 12), along_y(17, 29), along_y(38, 50)],
    "side by side": [along_y(0, 40), along_y(0, 38, z=6.0), along_y(44, 60)],
    "T": [along_y(0, 40), straight((0, 20, 5), (0, 20, 45)), straight((3, 50, 0), (3, 60, 7))],
    "random": [straight(*np.random.default_rng(n).uniform(0, 50, (2, 3))) for n in range(4)],
}


@pytest.mark.parametrize("lines", SCENES.values(), ids=SCENES)
def test_the_order_and_the_direction_of_the_lines_do_not_matter(lines):
    expected = longest_chain(lines, 20)
    for order in permutations(range(len(lines))):
        found = longest_chain([lines[n][:: 1 if n % 2 else -1] for n in order], 20)
        assert found.length_mm == pytest.approx(expected.length_mm)
        assert sum(found.gaps_mm) == pytest.approx(sum(expected.gaps_mm))
        assert {order[n] for n in found.members} == set(expected.members)


@pytest.mark.parametrize("lines", SCENES.values(), ids=SCENES)
def test_a_chain_is_never_shorter_than_its_longest_line(lines):
    longest = max(float(np.linalg.norm(line[-1] - line[0])) for line in lines)
    assert longest_chain(lines, 20).length_mm >= longest - 1e-9
