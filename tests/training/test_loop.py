import math
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from toys import Apart, Line, Numbers, Turns, make_loop

from napari_pcs.data.health import Failure
from napari_pcs.errors import InputError, ModelError
from napari_pcs.objectives.task import Outcome
from napari_pcs.stop import StopToken
from napari_pcs.training.batches import Drawn
from napari_pcs.training.checkpoint import read_checkpoint, write_checkpoint
from napari_pcs.training.events import Adapted, Epoch, Saved, Skipped, Step
from napari_pcs.training.keeper import Keeper


def steps_of(events):
    return [event for event in events if isinstance(event, Step)]


def epochs_of(events):
    return [event for event in events if isinstance(event, Epoch)]


class Notes(Keeper):
    """Writes down what the loop hands over."""

    def __init__(self):
        self.best, self.failures = [], []

    def improved(self, loop):
        self.best.append(loop.position.step)
        yield Saved(step=loop.position.step, path="best", best=True)

    def skipped(self, failures):
        self.failures.extend(failures)
        yield Skipped(name=failures[0].name, reason=failures[0].reason, count=len(self.failures), of=9)


def test_the_steps_are_those_of_a_loop_written_by_hand():
    loop = make_loop(Line(), epochs=2)
    found = steps_of(loop.events())

    task, batches = Line(), Numbers()
    optimiser = torch.optim.Adam(task.parameters(), 0.05, weight_decay=1e-4)
    losses, norms = [], []
    for epoch in range(2):
        for step in range(4):
            batch = batches.batch(epoch, step)
            loss = ((task.line(batch["x"])[:, 0] - batch["y"]) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in task.parameters())))
            optimiser.step()
            losses.append(float(loss))
    assert [s.loss for s in found] == losses
    assert [s.gradient_norm for s in found] == pytest.approx(norms)
    assert [(s.step, s.epoch, s.samples) for s in found] == [(n + 1, n // 4 + 1, 6) for n in range(8)]
    for one, two in zip(loop.task.parameters(), task.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_epoch_tells_the_mean_of_its_losses_and_of_the_validation():
    events = list(make_loop(Line(), Numbers(held_out=3), epochs=2).events())
    first = epochs_of(events)[0]
    assert first.loss == pytest.approx(sum(s.loss for s in steps_of(events)[:4]) / 4)

    task, batches = Line(), Numbers()
    list(make_loop(task, batches, epochs=1).events())
    with torch.no_grad():
        expected = [float(task({**batches.batch(99, n)}).loss) for n in range(3)]
    assert first.validation_loss == pytest.approx(sum(expected) / 3)


class Scored(Line):
    """Tells the mean of what it is given, and of what nobody knows nothing."""

    def forward(self, batch, turn="main"):
        score = float(batch["x"].mean())
        return Outcome(
            super().forward(batch, turn).loss, figures={"score": score, "low": score if score < 0 else math.nan}
        )


def test_an_epoch_tells_the_means_of_what_is_known_of_the_validation():
    batches = Numbers(held_out=5)
    (first,) = epochs_of(make_loop(Scored(), batches, epochs=1).events())
    scores = [float(batches.batch(99, n)["x"].mean()) for n in range(5)]
    low = [score for score in scores if score < 0]
    assert first.figures["score"] == pytest.approx(sum(scores) / 5)
    assert first.figures["low"] == (pytest.approx(sum(low) / len(low)) if low else None)
    (alone,) = epochs_of(make_loop(Scored(), Numbers(), epochs=1).events())
    assert alone.figures == {}


@pytest.mark.parametrize("task", [Line, Apart, Turns])
@pytest.mark.parametrize("after", [1, 4, 6])
def test_a_resumed_run_has_the_same_losses_and_weights_to_the_last_bit(task, after, tmp_path):
    whole = make_loop(task(), Numbers(held_out=1))
    expected = [s.loss for s in steps_of(whole.events())]

    first = make_loop(task(), Numbers(held_out=1))
    before = [s.loss for s in islice((e for e in first.events() if isinstance(e, Step)), after)]
    write_checkpoint(tmp_path / "c.safetensors", first.task, first.optimisers, first.position)

    second = make_loop(task(), Numbers(held_out=1))
    torch.rand(7)  # what was drawn before must not matter
    second.position = read_checkpoint(tmp_path / "c.safetensors", second.task, second.optimisers)
    after_it = [s.loss for s in steps_of(second.events())]
    assert before + after_it == expected
    timings = {"seconds", "epoch_seconds"}
    assert second.position.model_dump(exclude=timings) == whole.position.model_dump(exclude=timings)
    for one, two in zip(second.task.parameters(), whole.task.parameters(), strict=True):
        assert torch.equal(one, two)


def test_it_stops_early_when_the_validation_loss_falls_no_more():
    keeper = Notes()
    # A huge rate makes the line worse and worse.
    loop = make_loop(Line(), Numbers(held_out=1), keeper, epochs=20, patience=3, optimiser={"learning_rate": 10.0})
    epochs = epochs_of(loop.events())
    assert loop.stopped == "early"
    losses = [e.validation_loss for e in epochs]
    best = losses.index(min(losses))
    assert len(epochs) == best + 1 + 3
    assert loop.position.best_epoch == best + 1
    assert keeper.best[-1] == (best + 1) * 4


class Stubborn(Line):
    """Wants the highest loss."""

    def judged(self, loss, figures):
        return -loss


def test_a_task_says_by_what_epochs_are_compared():
    keeper = Notes()
    loop = make_loop(Stubborn(), Numbers(held_out=1), keeper, epochs=3)
    epochs = epochs_of(loop.events())
    assert [e.judged for e in epochs] == [-e.validation_loss for e in epochs]
    assert loop.position.best_loss == min(e.judged for e in epochs)
    assert loop.position.best_epoch == 1 + int(np.argmax([e.validation_loss for e in epochs]))


class Doubtful(Line):
    """Its first validation is not a number, and the later ones rise."""

    times = 0

    def forward(self, batch, turn="main"):
        outcome = super().forward(batch, turn)
        if self.training:
            return outcome
        self.times += 1
        return Outcome(torch.tensor(math.nan if self.times == 1 else float(self.times)))


def test_a_validation_loss_that_is_no_number_is_never_the_best_for_long():
    keeper = Notes()
    loop = make_loop(Doubtful(), Numbers(held_out=1), keeper, epochs=3)
    list(loop.events())
    assert keeper.best == [4, 8]
    assert (loop.position.best_epoch, loop.position.best_loss) == (2, 2.0)


class Lost(Numbers):
    """Nobody who judges can be read."""

    def validation(self):
        yield Drawn({}, (Failure(3, "a", "torn"),))


def test_a_batch_without_samples_ends_it_after_its_failures_were_told():
    keeper = Notes()
    with pytest.raises(InputError, match="found no file left on one side of the split"):
        list(make_loop(Line(), Lost(), keeper, epochs=1).events())
    assert [f.name for f in keeper.failures] == ["a"]


def test_a_stop_token_ends_it_after_a_whole_step():
    stop, task = StopToken(), Line()
    loop = make_loop(task, stop=stop)
    events = loop.events()
    next(events)
    next(events)
    weights = [p.clone() for p in task.parameters()]
    stop.set()
    assert steps_of(events) == []
    assert (loop.stopped, loop.position.step) == ("cancelled", 2)
    assert all(torch.equal(a, b) for a, b in zip(weights, task.parameters(), strict=True))


def test_each_turn_has_its_own_weights_and_comes_in_its_own_epochs():
    task = Turns()
    loop = make_loop(task, epochs=2)
    values = [(task.often.item(), task.seldom.item())]
    figures = []
    for event in loop.events():
        if isinstance(event, Step):
            values.append((task.often.item(), task.seldom.item()))
            figures.append(set(event.figures))
    moved = [(a[0] != b[0], a[1] != b[1]) for a, b in pairwise(values)]
    assert moved == [(True, True)] * 4 + [(True, False)] * 4
    assert figures == [{"loss_seldom", "loss_often"}] * 4 + [{"loss_often"}] * 4


def test_gradients_are_clipped_and_the_norm_told_is_the_one_before():
    found, plain = (steps_of(make_loop(Line(), epochs=1, **c).events()) for c in ({"clip_norm": 1e-3}, {}))
    assert found[0].gradient_norm == plain[0].gradient_norm
    task = Line()
    loop = make_loop(task, epochs=1, clip_norm=1e-3, optimiser={"name": "sgd", "learning_rate": 1.0, "weight_decay": 0})
    before = torch.cat([p.detach().clone().flatten() for p in task.parameters()])
    next(e for e in loop.events() if isinstance(e, Step))
    moved = torch.cat([p.detach().flatten() for p in task.parameters()]) - before
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


class Hungry(Line):
    """Runs out of memory with more than two samples."""

    def forward(self, batch, turn="main"):
        if len(batch["x"]) > 2:
            msg = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            raise RuntimeError(msg)
        return super().forward(batch, turn)


def test_too_large_a_batch_goes_through_in_pieces_with_the_same_gradients():
    events = list(make_loop(Hungry(), epochs=1, micro_batch=6).events())
    assert [e.micro_batch for e in events if isinstance(e, Adapted)] == [3, 2]
    plain = steps_of(make_loop(Line(), epochs=1).events())
    assert [s.loss for s in steps_of(events)] == pytest.approx([s.loss for s in plain], rel=1e-5)
    assert [s.gradient_norm for s in steps_of(events)] == pytest.approx([s.gradient_norm for s in plain], rel=1e-5)


def test_the_micro_batch_is_found_by_trying_when_nobody_says_it(monkeypatch):
    loop = make_loop(Line(), epochs=1)
    monkeypatch.setattr("napari_pcs.training.memory._peak", lambda *_: 100.0)
    monkeypatch.setattr(type(loop.processes), "free_memory", property(lambda _: 500))
    events = list(loop.events())
    adapted = [e for e in events if isinstance(e, Adapted)]
    assert [e.micro_batch for e in adapted] == [4]
    assert "A batch of 6 does not fit" in adapted[0].sentence
    expected = [s.loss for s in steps_of(make_loop(Line(), epochs=1, micro_batch=6).events())]
    assert [s.loss for s in steps_of(events)] == pytest.approx(expected, rel=1e-6)


class Broken(Line):
    def forward(self, batch, turn="main"):
        return Outcome(super().forward(batch, turn).loss * math.nan)


def test_a_loss_that_is_not_finite_ends_the_run_with_advice_and_without_a_step():
    task = Broken()
    before = [p.clone() for p in task.parameters()]
    with pytest.raises(ModelError, match=r"not finite in step 1; lower the learning rate"):
        list(make_loop(task).events())
    assert all(torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))


class Coarse(Line):
    """Overflows in bfloat16 only."""

    def forward(self, batch, turn="main"):
        outcome = super().forward(batch, turn)
        return outcome._replace(loss=outcome.loss * math.inf) if torch.is_autocast_enabled("cpu") else outcome


def test_a_step_that_overflows_in_bfloat16_is_done_again_in_float32():
    found = steps_of(make_loop(Coarse(), epochs=1, precision="bf16").events())
    expected = steps_of(make_loop(Line(), epochs=1).events())
    assert [s.loss for s in found] == [s.loss for s in expected]


class Defect(Numbers):
    def epoch(self, epoch, first_step=0):
        for step, drawn in enumerate(super().epoch(epoch, first_step)):
            yield drawn if step else Drawn(drawn.batch, (Failure(3, "a", "torn"),))


def test_files_that_cannot_be_read_are_handed_to_the_keeper_and_told():
    keeper = Notes()
    events = list(make_loop(Line(), Defect(), keeper, epochs=1).events())
    assert [f.name for f in keeper.failures] == ["a"]
    assert [e.reason for e in events if isinstance(e, Skipped)] == ["torn"]
    assert len(steps_of(events)) == 4


def test_the_time_left_is_that_of_the_epochs_to_come():
    epochs = epochs_of(make_loop(Line(), epochs=3).events())
    spent = [e.seconds for e in epochs]
    assert epochs[0].seconds_left == pytest.approx(2 * spent[0])
    assert epochs[1].seconds_left == pytest.approx((spent[0] + spent[1]) / 2)
    assert epochs[2].seconds_left == 0


def test_a_programming_error_is_not_taken_for_a_cancelled_run():
    class Wrong(Line):
        def forward(self, batch, turn="main"):
            raise KeyError(turn)

    with pytest.raises(KeyError):
        list(make_loop(Wrong()).events())
