"""How a tuning ends: by the user, by the clock, or because held-out patches get no better."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import CPU, look_through_a_small_box, tiny_model
from safetensors.torch import load_file

from napari_pcs.bids import CaseKey
from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.labels import Hemisphere
from napari_pcs.models.folders import ModelFolder
from napari_pcs.stop import StopToken
from napari_pcs.training import budget as budget_module
from napari_pcs.training import features as features_module
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Epoch, Step, Tuned
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.tune import tune

CONFIG = TuneConfig(
    budget="best", round_steps=2, patch=32, patches=2, views=1, batch_size=1, learning_rate=3e-4, seed=3
)


@pytest.fixture(scope="module")
def cases():
    return [
        Labelled.of(replace(phantom(pcs_length_mm=60, seed=n), key=CaseKey(name, "", Hemisphere.LEFT)))
        for n, name in enumerate(("ada", "bob"))
    ]


class Clock:
    """Goes on by so many seconds with every step."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def perf_counter(self):
        return self.now

    def tick(self, event, number):
        if isinstance(event, Step):
            self.now += self.seconds(number) if callable(self.seconds) else self.seconds


class Run:
    """One tuning, its events, and the weights that were the best after every event."""

    def __init__(self, cases, folder, config, *, stop_after=None, clock=None):
        self.folder, stop = folder, StopToken()
        base = tiny_model(folder, "base")
        self.events = []
        for event in tune(
            cases, base, folder / "mine", folder / "run", config, CPU, stop, bundles=Bundles(folder / "kept", 2**30)
        ):
            self.events.append(event)
            if clock:
                clock.tick(event, len(self.of(Step)))
            if stop_after is not None and len(self.of(Step)) == stop_after:
                stop.set()
        self.told = self.events[-1]
        assert isinstance(self.told, Tuned)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def weights(self):
        return load_file(ModelFolder(self.folder / "mine").path / "weights.safetensors")


@pytest.fixture
def run(cases, tmp_path, monkeypatch):
    """Tune into a folder of its own; whole cases, which are judged after the end, are judged by their own labels."""
    look_through_a_small_box(monkeypatch)
    known = {case.name: SimpleNamespace(labels=case.load().truth[1].data) for case in cases}
    monkeypatch.setattr("napari_pcs.training.judging.predict", lambda case, *_, **_options: known[case.key.stem])

    def run(name="one", *, clock=None, stop_after=None, **changes):
        if clock:
            monkeypatch.setattr(budget_module, "time", clock)
        (tmp_path / name).mkdir()
        return Run(cases, tmp_path / name, CONFIG.model_copy(update=changes), stop_after=stop_after, clock=clock)

    return run


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], tensor) for name, tensor in two.items())


def best_round(epochs):
    return 1 + int(np.argmin([epoch.validation_loss for epoch in epochs]))


@pytest.mark.parametrize("stop_after", [1, 5, 6])
def test_a_cancelled_tuning_ends_after_the_step_and_its_model_has_the_best_weights_so_far(run, stop_after):
    cancelled = run(stop_after=stop_after, rounds=20)
    assert cancelled.told.stopped == "cancelled"
    assert len(cancelled.of(Step)) == stop_after
    epochs = cancelled.of(Epoch)
    assert len(epochs) == (stop_after - 1) // CONFIG.round_steps
    # Before the first round is over there is nothing to choose from.
    best = best_round(epochs) if epochs else 0
    assert cancelled.told.best_step == (best * CONFIG.round_steps if epochs else stop_after)
    if epochs:
        assert equal(cancelled.weights, run("again", rounds=best).weights)
    assert not equal(cancelled.weights, load_file(cancelled.folder / "base" / "weights.safetensors"))
    kept = load_file(cancelled.folder / "run" / "checkpoint-best.safetensors")
    assert all(torch.equal(cancelled.weights[name], tensor) for name, tensor in kept.items())
    assert "cancelled by the user, best weights kept" in ModelFolder(cancelled.folder / "mine").card


def test_it_stops_when_held_out_patches_get_no_better_and_keeps_the_best_round(run):
    """A rate so large that it soon gets worse and worse; nobody may ask for one."""
    ended = run(learning_rate=1.0, patience=2)
    epochs = ended.of(Epoch)
    best = best_round(epochs)
    assert ended.told.stopped == "early"
    assert len(epochs) == best + 2
    assert ended.told.best_step == best * CONFIG.round_steps
    assert equal(ended.weights, run("again", learning_rate=1.0, rounds=best).weights)


def test_as_many_rounds_as_were_asked_for_are_done_however_bad_they_are(run):
    ended = run(learning_rate=1.0, patience=1, rounds=6)
    assert (ended.told.stopped, ended.told.rounds) == ("complete", 6)
    assert best_round(ended.of(Epoch)) < 5


@pytest.mark.parametrize(("budget", "seconds", "step"), [("30s", 30, 2.9), ("30s", 30, 4.0), ("2min", 120, 13.0)])
def test_rounds_end_within_the_budget_and_no_more_than_a_round_before_it(run, budget, seconds, step):
    clock = Clock(step)
    told = run(clock=clock, budget=budget, patience=1000).told
    assert told.stopped == "budget"
    assert seconds - CONFIG.round_steps * step < clock.now <= seconds


def test_a_slow_first_round_that_prepares_everything_is_not_held_against_the_others(run, monkeypatch):
    """Who trains and who judges are prepared in it, 7 s each; a step takes 1 s."""
    clock = Clock(1.0)
    compute = features_module.FrozenValues._compute

    def slowly(*arguments):
        clock.now += 7.0
        return compute(*arguments)

    monkeypatch.setattr(features_module, "time", clock)
    monkeypatch.setattr(features_module.FrozenValues, "_compute", slowly)
    told = run(clock=clock, budget="30s", patience=1000).told
    assert told.stopped == "budget"
    assert (told.rounds, clock.now) == (1 + (30 - 16) // 2, 30.0)


def test_the_time_that_is_left_is_told_with_every_round(run):
    clock = Clock(3.0)
    left = [epoch.seconds_left for epoch in run(clock=clock, budget="30s", patience=1000).of(Epoch)]
    assert left == [24.0, 18.0, 12.0, 6.0, 0.0]
