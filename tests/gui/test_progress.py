"""A tuning's curves and sentence, from its events and the time at which they arrive."""

import pytest
from fake_worker import epoch, started, step

from napari_pcs.gui.progress import BUDGETS_S, Progress
from napari_pcs.provenance import ModelReference
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Preparing, Tuned
from napari_pcs.training.tune import BUDGET_SECONDS

TUNED = Tuned(
    model=ModelReference(name="mine", digest="00"),
    path="",
    run="",
    strategy="top",
    trainable_parameters=1,
    total_parameters=2,
    epochs=1,
    rounds=1,
    best_step=8,
    stopped="budget",
    seconds_per_epoch=None,
    seconds_total=38.0,
    before=(),
    after=(),
    held_out_cases=(),
)


def progress(**settings):
    made = Progress(TuneConfig(**settings))
    made.hear(started(made.config, ("a",), ("b",)), 100.0)
    return made


def test_the_seconds_of_a_budget_are_those_that_training_takes():
    assert {name: seconds for name, seconds in BUDGET_SECONDS.items() if seconds} == BUDGETS_S


def test_what_is_prepared_is_said_and_the_curves_begin_with_training():
    made = Progress(TuneConfig())
    made.hear(Preparing(sentence="Reading 3 cases"), 90.0)
    assert made.sentence == "Reading 3 cases"
    assert made.curves == {}
    made.hear(started(made.config, ("a",), ("b",)), 100.0)
    assert "79,600 weights (8.0%)" in made.sentence
    made.hear(step(1, 8, 0.5), 100.5)
    assert made.curves["loss"] == [(0.5, step(1, 8, 0.5).loss)]
    assert made.curves["dice_pcs"][0][0] == 0.5


@pytest.mark.parametrize(
    ("budget", "at", "left"), [("30s", 105.0, "about 25 s left"), ("2min", 110.0, "about 2 min left")]
)
def test_what_is_left_of_a_budget_is_told_from_the_first_step(budget, at, left):
    made = progress(budget=budget)
    made.hear(step(1, 8, 0.5), at)
    assert made.sentence == f"Step 1, {left}"
    for n in range(2, 9):
        made.hear(step(n, 8, 0.5), at + n - 1)
    made.hear(step(16, 8, 0.5), 100 + BUDGETS_S[budget] + 3)
    assert made.sentence == "Step 16, about to end"


def test_a_round_that_is_slower_than_the_budget_is_told_until_its_end():
    made = progress(budget="30s", round_steps=8)
    for n in range(1, 6):
        made.hear(step(n, 8, 10.0), 100.0 + 10 * n)
    assert made.sentence == "Step 5, about 30 s left"


def test_in_the_end_it_says_where_and_what_the_time_went_into():
    made = Progress(TuneConfig())
    made.hear(Preparing(sentence="Loading starter"), 90.0)
    made.hear(started(made.config, ("a",), ("b",)), 91.0)
    for n in range(1, 9):
        made.hear(step(n, 8, 2.0), 92.5 + 2 * (n - 1))
    made.hear(epoch(1, held_out=True), 108.0)
    assert made.curves["held out dice_pcs"][0][0] == 17.0
    made.hear(Preparing(sentence="Predicting 1 held-out case"), 108.0)
    made.hear(TUNED, 128.0)
    assert made.sentence == (
        "mine: 8 steps on cpu, fp32, 38 s in all (2.5 s to the first step, 16 s for the others, 20 s to judge and save)"
    )


def test_exactly_so_many_rounds_last_as_long_as_their_steps():
    made = progress(rounds=5, round_steps=8)
    for n in range(1, 11):
        made.hear(step(n, 8, 0.5), 100 + 0.5 * n)
    assert made.sentence == "Step 10 of 40, about 15 s left"


@pytest.mark.parametrize("held_out", [True, False])
def test_until_it_stops_improving_it_says_how_long_it_has_not(held_out):
    made = progress(budget="best", patience=4)
    made.hear(step(1, 8, 0.5), 101)
    assert "until it stops improving" in made.sentence
    for n, (judged, loss) in enumerate(zip((0.9, 0.5, 0.6, 0.7), (0.4, 0.3, 0.2, 0.1), strict=True), start=1):
        told = epoch(n, held_out=held_out)
        name = "validation_loss" if held_out else "loss"
        made.hear(told.model_copy(update={name: loss, "judged": judged}), 101 + n)
    made.hear(step(33, 8, 0.5), 110)
    assert made.sentence == "Step 33, round 5: 2 of 4 rounds without a better one"
    assert [y for _, y in made.curves.get("held out", [])] == ([0.4, 0.3, 0.2, 0.1] if held_out else [])


def test_a_figure_that_there_is_not_leaves_no_point():
    made = progress()
    made.hear(step(1, 8, 0.5).model_copy(update={"figures": {"dice_pcs": None, "dice_skeleton": 0.5}}), 101)
    assert "dice_pcs" not in made.curves
    assert len(made.curves["dice_skeleton"]) == 1
