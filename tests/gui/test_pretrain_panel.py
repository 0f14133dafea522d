"""Pre-training from the panel, in a real viewer; the command is a stand-in that writes the same files."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from waiting import wait_for

from napari_pcs.gui import pretraining
from napari_pcs.gui.command import Command
from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of
from napari_pcs.models.folders import list_models
from napari_pcs.objectives import known_objectives
from napari_pcs.training.choices import Choice, Choices
from napari_pcs.training.lock import run_lock

FAKE = Path(__file__).with_name("fake_pretrain.py")
NAMES = ("context", "endless", "broken", "crash", "deaf")
REAL = [sys.executable, "-m", "napari_pcs", "pretrain"]


@pytest.fixture
def commands(monkeypatch):
    """Commands that were asked for, with the stand-in in place of the real one."""
    asked = []

    def standing_in(build):
        def command(*args):
            real = build(*args)
            assert real[:4] == REAL
            asked.append(real[4:])
            return [sys.executable, str(FAKE), *real[4:]]

        return command

    for name in ("stage_command", "resume_command"):
        monkeypatch.setattr(pretraining, name, standing_in(getattr(pretraining, name)))
    return asked


def ready(workspace):
    """Return the panel with its objectives; the real ones are asked for in a test of their own."""
    panel = workspace.panels["Pre-train"]
    panel._asked = object()
    workspace.show_panel("Pre-train")
    panel._list_choices(Choices(objectives=tuple(Choice(name=n, title=n.title()) for n in NAMES)))
    return panel


@pytest.fixture
def panel(workspace, state, commands, tmp_path):
    workspace.panels["Load"].do.open_session(tmp_path / "session")
    yield ready(workspace)
    if state.pretraining is not None:
        state.pretraining.cancel()
        wait_for(lambda: state.pretraining is None)


def start(panel, objective):
    panel.objective.setCurrentText(objective.title())
    panel.run.click()


def over(state):
    wait_for(lambda: state.pretraining is None, 30)


def test_a_run_is_followed_to_its_end_and_its_model_is_in_the_list(viewer, state, panel, workspace, commands):
    panel.epochs.setValue(4)
    panel.batch.setValue(2)
    panel.name.setText("mine")
    panel.begin_from.setCurrentText("starter")
    start(panel, "context")
    assert not panel.run.isEnabled()
    assert panel.stop.isEnabled()
    over(state)
    root = state.session.root
    (asked,) = commands
    starter = next(m.path for m in list_models() if m.name == "starter")
    options = dict(zip(asked[:-1:2], asked[1::2], strict=True))
    assert asked[-1] == "--json"
    assert options == {
        "--objective": "context",
        "--data": str(root),
        "--out": str(root),
        "--init": str(starter),
        "--epochs": "4",
        "--batch-size": "2",
        "--name": "mine",
    }
    assert not state.message.is_error, state.message.text
    assert state.message.text.startswith("mine: done after 4 epochs")
    assert state.model == "starter"
    for box in (panel.begin_from, workspace.panels["Predict"].model):
        assert "mine" in [box.itemText(i) for i in range(box.count())]
    assert panel.curves.training.getData()[0].tolist() == [1, 2, 3, 4]
    assert panel.curves.validation.getData()[1][0] == pytest.approx(0.2 + np.exp(-0.5))
    assert len(panel.curves.steps.getData()[0]) == 16
    assert panel.resources.text() == "1,812 MB  GPU 83%  250 W"
    assert panel.skipped.text() == "1 of 18 files skipped: sub-07_hemi-L..."
    assert panel.skipped.toolTip() == "sub-07_hemi-L: found a damaged file"
    assert panel.run.isEnabled()
    assert not panel.stop.isEnabled()


def test_the_newest_reconstruction_stands_side_by_side_and_replaces_the_one_before(viewer, state, panel):
    seen = []
    viewer.layers.events.inserted.connect(lambda event: seen.append(event.value))
    start(panel, "context")
    over(state)
    assert [layer.name for layer in viewer.layers] == ["given", "target", "found"]
    assert seen == list(viewer.layers)
    given, target, found = viewer.layers
    volumes = np.load(state.session.root / "runs/20260101T000000_context/pictures/epoch-0003.npy")
    np.testing.assert_array_equal(found.data[:, :, -32:], volumes[0, 2])
    np.testing.assert_array_equal(found.data[:, :, :32], volumes[1, 2])
    extents = [layer.extent.world[:, 1] for layer in (given, target, found)]
    assert extents[0][1] < extents[1][0] < extents[1][1] < extents[2][0]
    assert found.contrast_limits == target.contrast_limits == [0, 1]
    assert viewer.canvas.overlays.text.text == "given   |   target   |   found      after epoch 3"
    panel.shows.setChecked(False)
    assert list(viewer.layers) == []
    panel.shows.setChecked(True)
    assert len(viewer.layers) == 3


def test_an_annotator_at_work_keeps_camera_slice_and_tool_and_may_open_the_next_case(
    viewer, state, panel, workspace, settle
):
    workspace.panels["Load"].do.open_sample("phantom-30mm")
    settle()
    workspace.panels["Load"].do.propose()
    settle()
    viewer.layers["labels"].mode = "paint"
    before = (viewer.scene.camera.center, viewer.scene.camera.zoom, viewer.dims.point, viewer.dims.order)
    chosen = viewer.layers.selection.active
    panel.do.pretrain(pretraining.Stage("endless", state.session.root))
    wait_for(lambda: "found" in viewer.layers)
    assert (viewer.scene.camera.center, viewer.scene.camera.zoom, viewer.dims.point, viewer.dims.order) == before
    assert viewer.layers.selection.active is chosen
    hemisphere = next(layer for layer in viewer.layers if layer.name == state.case.key.stem)
    given = viewer.layers["given"].extent.world
    assert given[0][1] > hemisphere.extent.world[1][1]
    assert given[0][0] < viewer.dims.point[0] < given[1][0]
    panel.look.click()
    low, high = viewer.layers["given"].extent.world[0], viewer.layers["found"].extent.world[1]
    assert viewer.scene.camera.center[1:] == pytest.approx([(low[2] + high[2]) / 2, (low[1] + high[1]) / 2])
    assert viewer.scene.camera.zoom > before[1]
    # A case can be opened and saved meanwhile; the reconstruction moves beside it.
    workspace.panels["Load"].do.open_sample("phantom-60mm")
    settle()
    assert not state.message.is_error, state.message.text
    assert state.pretraining is not None
    hemisphere = next(layer for layer in viewer.layers if layer.name == state.case.key.stem)
    assert viewer.layers["given"].extent.world[0][1] > hemisphere.extent.world[1][1]
    panel.stop.click()
    over(state)


def test_stop_ends_it_with_a_checkpoint_and_it_can_be_gone_on_with(state, panel, commands):
    start(panel, "endless")
    wait_for(lambda: state.watched is not None and len(state.watched.epochs) >= 2)
    panel.stop.click()
    over(state)
    assert state.message.text.startswith("20260101T000000_endless: stopped after step ")
    assert [panel.stopped.itemText(i) for i in range(panel.stopped.count())] == ["20260101T000000_endless"]
    assert not panel._resuming.isHidden()

    steps = state.watched.step
    panel.resume.click()
    over(state)
    assert commands[-1][:2] == ["--resume", str(state.session.root / "runs/20260101T000000_endless")]
    # The last epoch before the stop was done again, and is drawn once.
    xs = panel.curves.training.getData()[0].tolist()
    assert xs == list(range(1, len(xs) + 1))
    assert state.watched.step >= steps
    assert panel._resuming.isHidden()


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("broken", "Session x: found no hemisphere, expected at least 2. Add some."),
        ("crash", "ended unexpectedly (exit code 1: ZeroDivisionError)"),
    ],
)
def test_a_command_that_fails_is_one_sentence(state, panel, objective, words):
    start(panel, objective)
    over(state)
    assert state.message.is_error
    assert words in state.message.text
    assert panel.run.isEnabled()


def test_a_command_that_does_not_listen_is_ended_in_the_end(state, panel, monkeypatch):
    monkeypatch.setattr("napari_pcs.gui.command._TERMINATE_S", 0.3)
    start(panel, "deaf")
    wait_for(lambda: state.watched is not None)
    panel.stop.click()
    over(state)
    assert "nothing to save" in state.message.text


def test_there_must_be_a_session_and_a_folder(viewer, state, workspace, commands, tmp_path):
    panel = workspace.panels["Pre-train"]
    panel.do.pretrain(pretraining.Stage("context", tmp_path))
    assert "found no session" in state.message.text.lower()
    panel.do.open_session(tmp_path / "session")
    panel.do.pretrain(pretraining.Stage("context", tmp_path / "missing"))
    assert "expected one with hemispheres" in state.message.text
    assert commands == []


def test_only_runs_that_can_be_gone_on_with_are_offered(tmp_path):
    def run(name, last, settings='{"objective": "context"}', checkpoint=True):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(settings)
        (folder / "events.jsonl").write_text('{"event": "Preparing", "sentence": "x"}\n' + last)
        if checkpoint:
            (folder / "checkpoint-last.safetensors").write_bytes(b"")

    run("1-killed", '{"event": "Step", "ste')
    run("2-stopped", '{"event": "Stopped", "step": 3}\n')
    run("3-complete", '{"event": "Pretrained", "stopped": "complete"}\n')
    run("4-early", '{"event": "Saved"}\n', checkpoint=False)
    run("5-tuning", '{"event": "Step"}\n', settings='{"strategy": "top"}')
    assert [p.name for p in pretraining.stopped_runs(tmp_path)] == ["2-stopped", "1-killed"]
    with run_lock(tmp_path / "2-stopped"):
        assert [p.name for p in pretraining.stopped_runs(tmp_path)] == ["1-killed"]
    assert [p.name for p in pretraining.stopped_runs(tmp_path)] == ["2-stopped", "1-killed"]


def test_the_window_that_closes_stops_the_run_with_a_checkpoint(make_napari_viewer, commands, tmp_path):
    viewer = make_napari_viewer(show=True)
    workspace, state = open_workspace(viewer), state_of(viewer)
    do = workspace.panels["Pre-train"].do
    do.open_session(tmp_path / "session")
    panel = ready(workspace)
    start(panel, "endless")
    wait_for(lambda: state.watched is not None and len(state.watched.epochs) >= 1)
    run, job = state.watched.run, state.pretraining
    viewer.close()
    assert state.pretraining is None
    wait_for(lambda: job.wait(0), 10)
    assert '"event": "Stopped"' in (run / "events.jsonl").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a POSIX system")
def test_a_python_that_ends_tells_its_commands_to_stop(tmp_path):
    mark = tmp_path / "mark"
    child = f"import signal, time, pathlib; p = pathlib.Path({str(mark)!r}); "
    child += "signal.signal(signal.SIGINT, lambda *_: (p.write_text('saved'), exit())); "
    child += "p.write_text('began'); time.sleep(60)"
    parent = f"""
import sys, time, pathlib
from napari_pcs.gui.command import Command
from napari_pcs.gui.demo import open_workspace
from napari_pcs.gui.state import state_of
command = Command([sys.executable, "-c", {child!r}])
while not pathlib.Path({str(mark)!r}).exists():
    time.sleep(0.05)
time.sleep(0.2)
"""
    subprocess.run([sys.executable, "-c", parent], check=True, timeout=60)
    end = time.monotonic() + 10
    while mark.read_text() != "saved":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_in_the_terminal_of_napari_is_not_for_the_command():
    with Command(
        [sys.executable, "-c", "import os; print(os.getpgid(0) == os.getpid(), file=__import__('sys').stderr)"]
    ) as c:
        while c.exit_code is None:
            time.sleep(0.01)
        assert c._lines() == ["True"]


def test_asking_twice_to_stop_interrupts_once(tmp_path):
    code = (
        "import signal, time, sys; n = []; signal.signal(signal.SIGINT, lambda *_: n.append(1));"
        "print('run: here', file=sys.stderr, flush=True); end = time.time() + 1\n"
        "while time.time() < end: time.sleep(0.05)\n"
        "print(len(n), file=sys.stderr)"
    )
    with Command([sys.executable, "-c", code]) as command:
        while command.run is None:
            time.sleep(0.01)
        assert command.run == Path("here")
        for _ in range(3):
            command.tell_to_stop()
        while command.exit_code is None:
            time.sleep(0.01)
        assert command._lines()[-1] == "1"
    assert signal.getsignal(signal.SIGINT) is not None


def test_the_objectives_are_asked_for_in_another_process_when_somebody_looks(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    workspace = open_workspace(viewer)
    panel = workspace.panels["Pre-train"]
    assert panel._asked is None
    assert not panel.run.isEnabled()
    workspace.show_panel("Pre-train")
    wait_for(lambda: panel.objective.currentText() != "listing...")
    known = known_objectives()
    assert [panel.objective.itemData(i) for i in range(panel.objective.count())] == list(known)
    assert panel.run.isEnabled() == bool(known)


def test_opening_the_workspace_does_not_load_torch():
    code = """
import sys, napari
from napari_pcs.gui.demo import open_workspace
viewer = napari.Viewer(show=False)
workspace = open_workspace(viewer)
for title in workspace.panels:
    workspace.show_panel(title)
print(sorted({"torch", "monai", "tensorboard"} & set(sys.modules)))
viewer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
