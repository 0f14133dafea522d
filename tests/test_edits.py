import numpy as np
import pytest
from builders import label_map
from pydantic import ValidationError

from napari_pcs.edits import Edit
from napari_pcs.errors import InputError

SHAPE = (6, 7, 8)


@pytest.fixture
def states():
    """Three states of a label map, each a few voxels from the one before."""
    rng = np.random.default_rng(5)
    states = [label_map(SHAPE)]
    for n in (12, 30):
        after = states[-1].copy()
        after.ravel()[rng.choice(after.size, n, replace=False)] = rng.integers(0, 5, n)
        states.append(after)
    return states


def between(before, after):
    return Edit.between(before, after, editor="ada", seconds=3.5)


def test_an_edit_by_hand_is_recorded_voxel_by_voxel():
    before = np.zeros((2, 3, 4), np.uint8)
    after = before.copy()
    after[0, 1, 2], after[1, 2, 3] = 2, 1
    edit = between(before, after)
    # C order: 1 * 4 + 2, and the last voxel.
    assert (edit.index, edit.before, edit.after) == ((6, 23), (0, 0), (2, 1))


def test_applying_an_edit_gives_the_second_state_and_leaves_the_first(states):
    first, second, _ = states
    kept = first.copy()
    np.testing.assert_array_equal(between(first, second).apply(first), second)
    np.testing.assert_array_equal(first, kept)


def test_the_inverse_takes_an_edit_back_and_its_inverse_is_the_edit(states):
    first, second, _ = states
    edit = between(first, second)
    np.testing.assert_array_equal(edit.inverse().apply(second), first)
    assert edit.inverse().inverse() == edit
    assert edit.inverse() != edit


def test_edits_replay_and_rewind_through_all_states(states):
    first, second, third = states
    edits = [between(first, second), between(second, third)]
    state = first
    for edit in edits:
        state = edit.apply(state)
    np.testing.assert_array_equal(state, third)
    for edit in reversed(edits):
        state = edit.inverse().apply(state)
    np.testing.assert_array_equal(state, first)


def test_json_gives_the_same_edit_back(states):
    edit = between(*states[:2])
    line = edit.model_dump_json()
    assert "\n" not in line
    assert Edit.model_validate_json(line) == edit


def test_nothing_changed_is_an_edit_of_no_voxels(states):
    edit = between(states[0], states[0].copy())
    assert edit.index == ()
    np.testing.assert_array_equal(edit.apply(states[1]), states[1])


@pytest.mark.parametrize("layout", ["C", "F", "mirrored"])
def test_the_memory_layout_of_the_arrays_does_not_matter(states, layout):
    first, second, _ = states
    arrange = {"C": np.ascontiguousarray, "F": np.asfortranarray, "mirrored": lambda a: a[::-1].copy()[::-1]}[layout]
    edit = between(arrange(first), arrange(second))
    assert edit.index == between(first, second).index
    np.testing.assert_array_equal(edit.apply(arrange(first)), second)


def test_labels_in_another_state_are_refused(states):
    first, second, third = states
    edit = between(first, second)
    for wrong in (second, third):
        with pytest.raises(InputError, match="another state"):
            edit.apply(wrong)


def test_labels_that_are_too_small_are_refused(states):
    first, second, _ = states
    with pytest.raises(InputError, match="another state"):
        between(first, second).apply(first[:1])


@pytest.mark.parametrize("change", [{"seconds": -1}, {"index": ["a"]}, {"colour": "red"}])
def test_a_damaged_line_is_refused(states, change):
    content = between(*states[:2]).model_dump() | change
    with pytest.raises(ValidationError, match=next(iter(change))):
        Edit.model_validate(content)


def test_a_recorded_edit_cannot_be_changed(states):
    with pytest.raises(ValidationError, match="frozen"):
        between(*states[:2]).editor = "eve"
