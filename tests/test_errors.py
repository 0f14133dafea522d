"""Errors that a person may read, in this process and in another one."""

import copy
from pathlib import Path

import pytest

from napari_pcs.errors import CancelledError, FrameUnknownError, InputError, ModelError, PcsError, SessionError

ERRORS = [
    InputError(found="noise", expected="a brain"),
    InputError(found="noise", expected="a brain", advice="Look at it.", path="a/b.nii"),
    FrameUnknownError(),
    *(kind("What was found.") for kind in (PcsError, SessionError, ModelError, CancelledError)),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_arrives_in_another_process_as_it_was(error):
    found = copy.copy(error)  # made as another process makes it
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)


def test_an_error_that_arrived_can_be_told_of_a_file():
    found = copy.copy(ERRORS[0])
    assert found.at(Path("x.nii")).path == Path("x.nii")
