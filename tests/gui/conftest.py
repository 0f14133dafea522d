"""A real viewer with the workspace docked, and a way to wait for its jobs."""

import pytest
from fake_worker import FakeWorker
from waiting import wait_for

from napari_pcs.gui import working
from napari_pcs.gui.ahead import Ahead
from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of
from napari_pcs.worker.client import Worker

REAL = []
"""Begins with None while a test asks for real workers; those follow."""


@pytest.fixture(scope="session", autouse=True)
def _workers():
    """No viewer starts a worker, not even one that outlives its test, unless a test asks for it."""

    def make():
        if not REAL:
            return FakeWorker()
        REAL.append(Worker())
        return REAL[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(working, "Worker", make)
        yield


@pytest.fixture(autouse=True)
def fake_worker():
    """The stand-in that answers in place of a worker, as it is by default."""
    FakeWorker.reset()
    return FakeWorker


@pytest.fixture(autouse=True)
def _nothing_goes_on(request):
    """Windows that were never shown do not see that they close: leave their workers for them."""
    if "make_napari_viewer" not in request.fixturenames:
        yield
        return
    request.getfixturevalue("make_napari_viewer")  # so that viewers close after this, not before
    yield
    for ahead in list(Ahead._instances.values()):
        ahead.leave()
        wait_for(lambda ahead=ahead: not ahead.is_fetching)


@pytest.fixture
def real_worker():
    """The viewers of this test have workers of their own."""
    REAL.append(None)
    yield
    for worker in REAL[1:]:
        worker.close()
    REAL.clear()


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
    for job in filter(None, (state.job, state.tuning_job)):
        job.cancel()
    wait_for(lambda: state.job is None and state.tuning_job is None)


@pytest.fixture
def settle(state):
    """Wait until no job runs and nothing is tuned."""

    def wait(seconds=300.0):
        wait_for(lambda: state.job is None and state.tuning_job is None, seconds)

    return wait
