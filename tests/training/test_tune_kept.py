"""Tuning on kept values against tuning without any, and with a cache that others share, damage or refuse."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import CPU, LONG, look_through_a_small_box, tiny_model

from napari_pcs.bids import CaseKey
from napari_pcs.data import bundles as bundles_module
from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import ModelError
from napari_pcs.labels import Hemisphere
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Epoch, Step
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.tune import tune

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
CONFIG = TuneConfig(rounds=2, round_steps=2, patch=32, patches=1, views=2, batch_size=1, learning_rate=1e-4, seed=3)
"""In its four steps each view of the two training cases is read once."""
NARROW, NARROW_START = (32, 96, 32), (40, 80, 100)
"""A box at the medial wall in which a patch of 64 voxels has more than one place."""
ROUNDING, DRIFT = 2e-4, 5e-3
"""Largest relative difference of losses: of the first step, whose values are rounded to float16 (each by up to
2^-11 = 5e-4, their mean by less), and of those after steps of Adam, which make much of little at first."""
ROOM = 2**30


def told(events, meddle=None):
    """Losses of all steps, then those of the held-out patches; perhaps something happens after the first round."""
    steps, judged = [], []
    for event in events:
        if isinstance(event, Step):
            steps.append(event.loss)
        if isinstance(event, Epoch):
            judged.append(event.validation_loss)
            if len(judged) == CONFIG.rounds:
                break
            if meddle:
                meddle()
    return steps + judged


def make_cases():
    """Both hemispheres of Ada and the left one of Bob."""
    whose = (("ada", L, 60), ("ada", R, 30), ("bob", L, 60))
    return [
        Labelled.of(replace(phantom(side, pcs_length_mm=mm, seed=n), key=CaseKey(name, "", side)))
        for n, (name, side, mm) in enumerate(whose)
    ]


@pytest.fixture(scope="module")
def cases():
    return make_cases()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models"), "base")


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


@pytest.fixture
def losses(cases, model, tmp_path):
    """Tune, and return the losses of all steps and of the held-out patches; meddle after the first round."""

    def losses(bundles, meddle=None, base=model, **changes):
        config = CONFIG.model_copy(update=changes)
        run = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        found = told(tune(cases, base, tmp_path / "none", run, config, CPU, bundles=bundles), meddle)
        assert len(found) == CONFIG.rounds * (CONFIG.round_steps + 1)
        return found

    return losses


@pytest.fixture
def kept(tmp_path):
    return Bundles(tmp_path / "kept", ROOM)


@pytest.fixture(scope="module")
def expected(cases, model, tmp_path_factory):
    """Losses of top-tuning with a sound cache, which others are to have to the last bit."""
    root = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        look_through_a_small_box(patch)
        events = tune(cases, model, root / "none", root / "run", CONFIG, CPU, bundles=Bundles(root / "kept", ROOM))
        return told(events)


def files(bundles):
    return sorted(bundles.folder.rglob("*.safetensors"))


# With a cache and without


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "top", "patches": 2, "batch_size": 2},
        {"strategy": "decoder", "patch": 64},
        {"strategy": "lora", "patch": 64},
        {"strategy": "full", "patch": 64},
    ],
)
def test_losses_with_a_cache_are_those_without_and_come_again_to_the_last_bit(losses, kept, monkeypatch, settings):
    if settings["strategy"] == "full":
        # Rounding is made much of where the coarsest values are normalised over two voxels only.
        look_through_a_small_box(monkeypatch, LONG)
    else:
        look_through_a_small_box(monkeypatch, NARROW, NARROW_START)
    without, first, again = (losses(bundles, **settings) for bundles in (None, kept, kept))
    np.testing.assert_allclose(first[0], without[0], rtol=ROUNDING)
    np.testing.assert_allclose(first, without, rtol=DRIFT)
    assert again == first
    assert files(kept)
    assert len(set(first)) == len(first)


# A cache that is damaged or refuses in the middle of a run


def truncate(bundles):
    for path in files(bundles):
        os.truncate(path, path.stat().st_size // 2)


def empty(bundles):
    for path in files(bundles):
        os.truncate(path, 0)


def alter(bundles):
    """Change one bit of a value in every file, and leave sizes as they are."""
    for path in files(bundles):
        content = bytearray(path.read_bytes())
        content[-len(content) // 3] ^= 0x40
        path.write_bytes(content)


def remove(bundles):
    shutil.rmtree(bundles.folder)


def forbid(bundles):
    """Where the folder was there is a file now: nothing can be read or written there, whoever asks."""
    shutil.rmtree(bundles.folder)
    bundles.folder.write_text("in the way")


def exchange(bundles):
    """Give every file the content of another one."""
    contents = [path.read_bytes() for path in files(bundles)]
    for path, content in zip(files(bundles), contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, alter, remove, forbid, exchange])
def test_what_is_damaged_in_the_middle_of_a_run_is_computed_again(losses, kept, expected, damage):
    assert losses(kept, meddle=lambda: damage(kept)) == expected


@pytest.mark.parametrize("damage", [truncate, alter, exchange])
def test_what_was_damaged_before_a_run_is_computed_again_and_kept_anew(losses, kept, expected, damage):
    assert losses(kept) == expected
    damage(kept)
    anew = Bundles(kept.folder, ROOM)
    assert losses(anew) == expected
    assert all(anew.read(path.stem) is not None for path in files(anew))


@pytest.mark.parametrize("moment", ["from the start", "in the middle"])
def test_a_full_disk_changes_nothing(losses, kept, expected, monkeypatch, moment):
    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    def fill():
        for path in files(kept):
            path.unlink()
        monkeypatch.setattr(bundles_module, "write_bundle", full)

    if moment == "from the start":
        fill()
    assert losses(kept, meddle=fill) == expected
    assert files(kept) == []


def test_a_folder_that_may_only_be_read_is_read(losses, kept, expected, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    first = losses(kept)
    known = [(path, path.stat().st_mtime_ns) for path in files(kept)]
    known[0][0].unlink()
    monkeypatch.setattr(bundles_module, "write_bundle", refuse)
    assert losses(Bundles(kept.folder, ROOM)) == first == expected
    assert [(path, path.stat().st_mtime_ns) for path in files(kept)] == known[1:]


@pytest.mark.parametrize("held", [0, 1, 2])
def test_too_little_room_changes_nothing(losses, kept, expected, held):
    """Of five bundles none, one or two fit, and each that is written sends another away."""
    losses(kept)
    largest = max(path.stat().st_size for path in files(kept))
    small = Bundles(kept.folder.with_name("small"), int(largest * (held + 0.2)))
    assert losses(small) == expected
    assert small.usage()[0] <= held
    assert small.usage()[1] <= small.limit_bytes


# A cache that others use


SCRIPT = """
import json, sys
from pathlib import Path
import pytest
import test_tune_kept as t
from napari_pcs.models.folders import ModelFolder
with pytest.MonkeyPatch.context() as patch:
    t.look_through_a_small_box(patch)
    root, name = Path(sys.argv[1]), sys.argv[2]
    cases = t.make_cases()
    bundles = t.Bundles(root / "kept", t.ROOM)
    print("ready", flush=True)
    sys.stdin.readline()
    model = ModelFolder(Path(sys.argv[3]))
    print(json.dumps(t.told(t.tune(cases, model, root / "none", root / name, t.CONFIG, t.CPU, bundles=bundles))))
"""


def test_two_processes_that_tune_at_once_with_one_cache_have_the_losses_of_one(model, expected, tmp_path):
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    both = [
        subprocess.Popen(
            [*command, name, str(model.path)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    # A process that pytest did not start may use other threads, and add up in another order.
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=1e-5)
    assert found[0] == found[1]
    kept = Bundles(tmp_path / "kept", ROOM)
    assert kept.usage()[0] == len(files(kept)) == 5
    assert all(kept.read(path.stem) is not None for path in files(kept))


def poison(bundles):
    """Replace every bundle by a sound one under the same key whose values are no numbers."""
    for path in files(bundles):
        bundle = bundles.read(path.stem)
        arrays = {n: np.full_like(a, np.nan) if a.dtype.kind == "f" else np.array(a) for n, a in bundle.arrays.items()}
        assert bundles.write(path.stem, arrays, bundle.note)


def test_values_of_one_model_are_never_those_of_another(losses, kept, model, tmp_path):
    other = tiny_model(tmp_path / "models", "other", seed=1)
    expected = losses(Bundles(tmp_path / "own", ROOM), base=other)
    losses(kept)
    poison(kept)
    assert losses(kept, base=other) == expected
    # The poison works on the model that it was meant for.
    with pytest.raises(ModelError, match="not finite"):
        losses(kept)


def test_a_file_of_one_model_under_the_key_of_another_is_not_taken(losses, kept, tmp_path):
    """As after a collision of names, or a folder that somebody has put together by hand."""
    other = tiny_model(tmp_path / "models", "other", seed=1)
    own = Bundles(tmp_path / "own", ROOM)
    expected = losses(own, base=other)
    losses(kept)
    theirs = files(kept)
    for path, wrong in zip(files(own), theirs, strict=True):
        shutil.copy(wrong, path)
    assert losses(Bundles(own.folder, ROOM), base=other) == expected


@pytest.mark.parametrize("change", [{"seed": 4}, {"patches": 2}, {"patch": 64}])
def test_values_for_other_settings_are_never_taken(kept, cases, model, tmp_path, change):
    config = CONFIG.model_copy(update=change)

    def found(name, settings, bundles):
        return told(tune(cases, model, tmp_path / "none", tmp_path / name, settings, CPU, bundles=bundles))

    expected = found("own", config, Bundles(tmp_path / "own", ROOM))
    found("first", CONFIG, kept)
    poison(kept)
    assert found("other", config, kept) == expected
