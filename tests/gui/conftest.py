"""A real viewer with the workspace docked, and a way to wait for its jobs."""

import pytest
from waiting import wait_for

from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def state(viewer):
    return state_of(viewer)


@pytest.fixture
def workspace(viewer, state):
    workspace = open_workspace(viewer)
    yield workspace
    if state.job is not None:
        state.job.cancel()
        wait_for(lambda: state.job is None)


@pytest.fixture
def settle(state):
    """Wait until no job runs."""

    def wait(seconds=300.0):
        wait_for(lambda: state.job is None, seconds)

    return wait
