import pytest

from napari_pcs.training.events import Started, Step
from napari_pcs.training.pace import Pace, clock


def started(steps, done=0):
    return Started(
        what="x",
        network={},
        trainable_parameters=1,
        total_parameters=1,
        training=(),
        held_out=(),
        epochs=1,
        steps=steps,
        steps_done=done,
        device="cpu",
        precision="fp32",
        processes=1,
        batch_size=1,
        micro_batch=1,
    )


def step(n, seconds):
    return Step(step=n, epoch=1, loss=0.0, figures={}, learning_rate=0.0, gradient_norm=0.0, samples=3, seconds=seconds)


def test_nothing_is_known_before_the_first_step():
    pace = Pace()
    pace.begin(started(10))
    assert (pace.seconds_left, pace.samples_per_second) == (None, None)


def test_what_is_left_follows_from_the_last_fifty_steps_only():
    pace = Pace()
    pace.begin(started(200))
    for n in range(1, 101):
        pace.add(step(n, 100.0 if n <= 50 else 1.0 + n % 2))
    assert pace.seconds_left == pytest.approx(100 * 1.5)
    assert pace.samples_per_second == pytest.approx(3 / 1.5)


def test_a_run_that_goes_on_has_only_the_rest_before_it():
    pace = Pace()
    pace.add(step(1, 1000.0))
    pace.begin(started(10, done=7))
    pace.add(step(8, 2.0))
    assert pace.seconds_left == pytest.approx(2 * 2.0)
    for n in (9, 10, 11):
        pace.add(step(n, 2.0))
    assert pace.seconds_left == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (1, "0:01"), (60, "0:01"), (61, "0:02"), (3599, "1:00"), (3600, "1:00"), (360_000, "100:00")],
)
def test_a_duration_is_given_in_hours_and_minutes_and_never_too_short(seconds, text):
    assert clock(seconds) == text
