import io
import re

import pytest

from napari_pcs.cli.progress import TrainingProgress
from napari_pcs.training.events import Adapted, Epoch, Pictured, Preparing, Saved, Skipped, Started, Step


class Terminal(io.StringIO):
    def isatty(self):
        return True


def started(steps=6, done=0, epochs=2):
    return Started(
        what="context",
        network={},
        trainable_parameters=900,
        total_parameters=1000,
        training=("a", "b", "c"),
        held_out=("d",),
        epochs=epochs,
        steps=steps,
        steps_done=done,
        device="cpu",
        precision="fp32",
        processes=1,
        batch_size=8,
        micro_batch=4,
    )


def step(n, seconds=2.0, loss=0.5, epoch=1):
    return Step(
        step=n,
        epoch=epoch,
        loss=loss,
        figures={},
        learning_rate=1e-3,
        gradient_norm=1.0,
        samples=8,
        seconds=seconds,
    )


def epoch(n, validation=0.75, utilisation=0.83, power=250.4):
    return Epoch(
        epoch=n,
        loss=0.625,
        validation_loss=validation,
        learning_rate=1e-3,
        seconds=6.04,
        samples_per_second=4.0,
        seconds_left=6.0,
        memory_mb=1812.4,
        utilisation=utilisation,
        power_w=power,
    )


def lines(*events):
    stream = io.StringIO()
    with TrainingProgress(stream) as progress:
        for event in events:
            progress.show(event)
    return stream.getvalue().splitlines()


def test_a_short_run_has_a_line_for_each_step_and_each_epoch():
    assert lines(started(), step(1), step(2), epoch(1))[1:] == [
        "step 1 of 6  epoch 1  loss 0.5  4 samples/s  0:01 h left",
        "step 2 of 6  epoch 1  loss 0.5  4 samples/s  0:01 h left",
        "epoch 1 of 2  loss 0.625  validation 0.75  6.0 s  4 samples/s  0:01 h left  1,812 MB  GPU 83%  250 W",
    ]


def test_a_long_run_has_a_line_for_each_epoch_only():
    told = lines(started(steps=10_000), *(step(n) for n in range(1, 101)), epoch(1))
    assert len(told) == 2
    assert "epoch 1 of 2  loss 0.625  validation 0.75  6.0 s  4 samples/s  5:30 h left" in told[-1]


def test_what_nobody_knows_is_left_out():
    told = lines(started(), step(6), epoch(2, None, None, None))[-1]
    assert told == "epoch 2 of 2  loss 0.625  6.0 s  4 samples/s  1,812 MB"


def test_the_beginning_says_what_is_learnt_from_whom_and_where():
    assert lines(started()) == [
        "context: training, 900 weights (90.0%); 3 to learn from, 1 held out; cpu, fp32; batch 8 as 4 at a time"
    ]
    assert "context: going on after step 4, " in lines(started(done=4))[0]


def test_sentences_are_shown_as_they_are_whatever_brackets_they_have():
    told = lines(
        Preparing(sentence="Reading [bold]3[/bold] hemispheres"),
        Adapted(sentence="Too little memory: 2 samples at a time", micro_batch=2),
        Skipped(name="sub-9", reason="found no [image]", count=1, of=20),
        Pictured(epoch=10, path="/run/pictures/epoch-10.png", volumes="v.npy", images=("given",)),
        Saved(step=3, path="p", best=True),
    )
    assert told == [
        "Reading [bold]3[/bold] hemispheres",
        "Too little memory: 2 samples at a time",
        "Skipped sub-9: found no [image] (1 of 20)",
        "Picture after epoch 10: epoch-10.png",
    ]


@pytest.fixture
def terminal(monkeypatch):
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def shown(terminal):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def test_a_terminal_has_one_bar_that_is_moved_and_left_at_the_end(terminal):
    with TrainingProgress(terminal) as progress:
        for event in (Preparing(sentence="Reading"), started(), step(1), step(2), step(3), epoch(1)):
            progress.show(event)
    told = shown(terminal)
    assert "Reading" in told
    assert "1,812 MB" in told
    last = told.rstrip().splitlines()[-1]
    assert "epoch 1 of 2" in last
    assert "50%" in last
    assert "loss 0.5  4 samples/s  0:01 h left" in last
    assert "step 1 of 6" not in told


def test_a_run_that_goes_on_begins_where_it_stopped(terminal):
    with TrainingProgress(terminal) as progress:
        progress.show(started(steps=8, done=6))
    assert "75%" in shown(terminal)


def test_the_cursor_comes_back_if_training_fails(terminal):
    def fail():
        with TrainingProgress(terminal) as progress:
            progress.show(started())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l") >= 0


def test_nothing_is_shown_of_a_run_that_never_begins(terminal):
    with TrainingProgress(terminal):
        pass
    assert shown(terminal) == ""
