from pathlib import Path

import numpy as np
import pytest

from napari_pcs.gui.reconstruction import column_of
from napari_pcs.gui.watched import Watcher
from napari_pcs.training.events import Epoch, Pictured, Preparing, Skipped, Started, Step


def started(done=0):
    return Started(
        what="context",
        network={},
        trainable_parameters=1,
        total_parameters=2,
        training=("a",),
        held_out=(),
        epochs=4,
        steps=8,
        steps_done=done,
        device="cpu",
        precision="fp32",
        processes=1,
        batch_size=2,
        micro_batch=2,
    )


def step(n, loss=1.0):
    return Step(
        step=n,
        epoch=(n + 1) // 2,
        loss=loss,
        figures={},
        learning_rate=0.1,
        gradient_norm=1.0,
        samples=2,
        seconds=0.5,
    )


def epoch(n, loss=1.0):
    return Epoch(
        epoch=n,
        loss=loss,
        validation_loss=None,
        learning_rate=0.1,
        seconds=1.0,
        samples_per_second=4.0,
        seconds_left=1.0,
        memory_mb=1.0,
        utilisation=None,
        power_w=None,
    )


def test_steps_lie_where_they_are_in_the_epochs_and_tell_what_is_left():
    watcher = Watcher(Path("run"))
    first = watcher.hear([Preparing(sentence="Reading"), started()])
    assert (first.seconds_left, first.steps) == (None, ())
    now = watcher.hear([step(1), step(2), epoch(1), step(3)])
    assert now.steps == ((0.5, 1.0), (1.0, 1.0), (1.5, 1.0))
    assert (now.step, now.seconds_left, now.samples_per_second) == (3, 2.5, 4.0)
    assert first.steps == ()


def test_what_is_done_again_after_a_checkpoint_is_there_once():
    watcher = Watcher(Path("run"))
    watcher.hear([started(), *(step(n) for n in (1, 2)), epoch(1), *(step(n) for n in (3, 4)), epoch(2), step(5)])
    now = watcher.hear([started(done=3), step(4, 9.0), epoch(2, 7.0)])
    assert [loss for _, loss in now.steps] == [1.0, 1.0, 1.0, 9.0]
    assert [(e.epoch, e.loss) for e in now.epochs] == [(1, 1.0), (2, 7.0)]


def test_a_file_that_two_sittings_skip_is_one_file():
    skipped = Skipped(name="sub-1", reason="damaged", count=1, of=9)
    assert Watcher(Path("run")).hear([skipped, started(), skipped]).skipped == (skipped,)


def test_only_the_newest_picture_is_read_and_a_missing_one_is_said(tmp_path):
    watcher = Watcher(tmp_path)
    np.save(tmp_path / "2.npy", np.full((1, 3, 2, 2, 2), 0.5, np.float16))

    def pictured(n):
        return Pictured(epoch=n, path=f"{n}.png", volumes=f"{n}.npy", images=("given", "target", "found"))

    now = watcher.hear([pictured(1), pictured(2)])
    assert (now.picture.epoch, now.picture.volumes.dtype) == (2, np.float32)
    later = watcher.hear([pictured(3)])
    assert later.picture is now.picture
    assert "picture after epoch 3 could not be read" in later.sentence


def test_samples_are_stacked_with_the_first_one_on_top():
    samples = np.random.default_rng(0).random((3, 4, 5, 6), dtype=np.float32) + 1
    column = column_of(samples)
    assert column.shape == (4, 5, 3 * 6 + 2 * 4)
    for i in range(3):
        top = column.shape[2] - i * 10
        np.testing.assert_array_equal(column[:, :, top - 6 : top], samples[i])
    assert column[:, :, 6:10].max() == pytest.approx(samples.min())


def test_a_picture_stands_upright_in_one_sagittal_slice():
    picture = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    column = column_of(picture)
    assert column.shape == (1, 4, 3)
    for row in range(3):
        for place in range(4):
            assert column[0, place, 2 - row] == picture[0, row, place]
