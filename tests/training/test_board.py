import errno

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from napari_pcs.errors import SessionError
from napari_pcs.training.board import Board
from napari_pcs.training.events import Epoch, Pictured, Preparing, Step
from napari_pcs.training.pictures import write_picture


def step(n, loss):
    return Step(
        step=n,
        epoch=1,
        loss=loss,
        figures={"reconstruction": loss / 2, "unknown": None},
        learning_rate=1e-3,
        gradient_norm=2.0,
        samples=4,
        seconds=0.5,
    )


def epoch(n):
    return Epoch(
        epoch=n,
        loss=0.25,
        validation_loss=0.5,
        learning_rate=1e-3,
        seconds=3.0,
        samples_per_second=2.5,
        seconds_left=60.0,
        memory_mb=512.0,
        utilisation=0.75,
        power_w=None,
    )


def read(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(found, name):
    return [(e.step, pytest.approx(e.value)) for e in found.Scalars(name)]


def test_losses_parts_rates_and_resources_are_curves_over_steps_and_what_is_unknown_is_none(tmp_path):
    with Board(tmp_path) as board:
        for event in (Preparing(sentence="x"), step(1, 1.0), step(2, 0.5), epoch(1)):
            board.add(event)
    found = read(tmp_path)
    assert scalars(found, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert scalars(found, "parts/reconstruction") == [(1, 0.5), (2, 0.25)]
    assert scalars(found, "train/seconds") == [(1, 0.5), (2, 0.5)]
    assert scalars(found, "epoch/validation_loss") == [(2, 0.5)]
    assert scalars(found, "resources/memory_mb") == [(2, 512.0)]
    assert {"parts/unknown", "resources/power_w"}.isdisjoint(found.Tags()["scalars"])
    assert {"train/learning_rate", "train/gradient_norm", "epoch/seconds"} < set(found.Tags()["scalars"])


def test_the_picture_is_shown_where_it_was_taken(tmp_path):
    data = np.random.default_rng(0).random((1, 3, 8, 8, 8))
    sheet, volumes = write_picture(data, ("given", "target", "found"), tmp_path / "p.png")
    with Board(tmp_path / "tensorboard") as board:
        board.add(step(3, 1.0))
        board.add(Pictured(epoch=1, path=str(sheet), volumes=str(volumes), images=("given", "target", "found")))
    (picture,) = read(tmp_path / "tensorboard").Images("reconstruction/given_target_found")
    assert picture.step == 3
    assert picture.height > 100


def test_a_run_that_goes_on_shows_each_step_once(tmp_path):
    with Board(tmp_path) as board:
        for n in range(1, 6):
            board.add(step(n, float(n)))
    # The number of a process's tenth file sorts before that of its ninth.
    (earlier,) = tmp_path.iterdir()
    earlier.rename(earlier.with_suffix(".99"))
    with Board(tmp_path, after_step=3) as board:
        for n in (4, 5, 6):
            board.add(step(n, 10.0 * n))
    assert scalars(read(tmp_path), "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    with Board(tmp_path) as board:

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(board._writer, "add_scalar", full)
        with pytest.raises(SessionError, match="the disk is full"):
            board.add(step(1, 1.0))
