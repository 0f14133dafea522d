import csv
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import CPU, look_through_a_small_box, tiny_model
from safetensors.torch import load_file

from napari_pcs.bids import CaseKey
from napari_pcs.case import LabelRole
from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import CancelledError, InputError, ModelError
from napari_pcs.labels import Hemisphere
from napari_pcs.metrics.report import compare_in
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.store import load_network
from napari_pcs.predict import predict
from napari_pcs.stop import StopToken
from napari_pcs.strategies import prepare
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Epoch, Judged, Preparing, Started, Step, Tuned
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.tune import tune

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
CONFIG = TuneConfig(rounds=2, round_steps=2, patch=32, patches=2, views=1, learning_rate=3e-4, seed=3)
"""At a rate so small the tuned network finds no solid PCS, which would take long to measure."""


@pytest.fixture(scope="module")
def cases():
    """Both hemispheres of Ada and the left one of Bob."""
    whose = (("ada", L, 60), ("ada", R, 30), ("bob", L, 60))
    return [
        replace(phantom(side, pcs_length_mm=mm, seed=n), key=CaseKey(name, "", side))
        for n, (name, side, mm) in enumerate(whose)
    ]


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


@pytest.fixture
def base(tmp_path):
    return tiny_model(tmp_path, "base")


@pytest.fixture
def start(tmp_path, base):
    """Start tuning into fresh folders."""

    def start(cases, config=CONFIG, stop=None):
        labelled = [Labelled.of(case) for case in cases]
        bundles = Bundles(tmp_path / "kept", 2**30)
        target, run = tmp_path / "models" / "mine", tmp_path / "run"
        return tune(labelled, base, target, run, config, CPU, stop, bundles=bundles)

    return start


@pytest.fixture(scope="module")
def tuned(cases, tmp_path_factory):
    """One whole run: its folder, its events and the cases that training read."""
    root = tmp_path_factory.mktemp("tuned")
    read = []

    def reading(case):
        labelled = Labelled.of(case)
        return replace(labelled, load=lambda: read.append(labelled.name) or case)

    with pytest.MonkeyPatch.context() as patch:
        look_through_a_small_box(patch)
        bundles = Bundles(root / "kept", 2**30)
        whom = [reading(case) for case in cases]
        events = tune(whom, tiny_model(root, "base"), root / "mine", root / "run", CONFIG, CPU, bundles=bundles)
        events = [(event, list(read)) for event in events]
    return root, [event for event, _ in events], [names for _, names in events]


def weights(model):
    return load_file(model.path / "weights.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# A whole run


def test_events_come_in_order(tuned):
    _, events, _ = tuned
    started = next(e for e in events if isinstance(e, Started))
    rounds = [*[Step] * CONFIG.round_steps, Epoch] * CONFIG.rounds
    expected = [Preparing, Started, *rounds, Preparing, Judged, Judged, Tuned]
    assert [type(e) for e in events] == expected
    assert [e.moment for e in events if isinstance(e, Judged)] == ["before", "after"]
    assert [e.step for e in events if isinstance(e, Step)] == list(range(1, started.steps + 1))
    assert started.steps == CONFIG.rounds * CONFIG.round_steps


def test_a_person_who_is_held_out_is_never_trained_on(tuned, cases):
    _, events, read = tuned
    started = next(e for e in events if isinstance(e, Started))
    first_round = next(n for n, e in enumerate(events) if isinstance(e, Epoch))
    assert set(read[first_round - 1]) <= set(started.training)
    people = [{name.split("_")[0] for name in names} for names in (started.training, started.held_out)]
    assert sorted(map(sorted, people)) == [["sub-ada"], ["sub-bob"]]
    assert Counter(started.training + started.held_out) == Counter(c.key.stem for c in cases)


def test_held_out_people_are_judged_before_and_after_and_the_model_changed_them(tuned, cases):
    root, events, _ = tuned
    before, after = (e.reports for e in events if isinstance(e, Judged))
    result = events[-1]
    assert (result.before, result.after) == (before, after)
    assert [r.case for r in before] == [r.case for r in after] == list(result.held_out_cases)
    assert before != after
    # Each figure is that of the model in the folder, seen from outside.
    for name, reports in (("base", before), ("mine", after)):
        model = ModelFolder(root / name)
        case = next(c for c in cases if c.key.stem == reports[0].case)
        labels = predict(case, load_network(model), model.reference, CPU).labels
        truth = case.labels[LabelRole.REFERENCE].data
        assert compare_in(case, labels, truth) == reports[0]


def test_exactly_what_the_strategy_names_differs_from_the_base_model(tuned):
    root, _, _ = tuned
    old, new = (weights(ModelFolder(root / name)) for name in ("base", "mine"))
    network = load_network(ModelFolder(root / "mine"))
    prepare(network, "top")
    named = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name in old if not torch.equal(old[name], new[name])} == named
    assert ModelFolder(root / "base").digest != ModelFolder(root / "mine").digest


def test_the_result_is_true(tuned):
    root, events, _ = tuned
    result, model = events[-1], ModelFolder(root / "mine")
    steps = [e for e in events if isinstance(e, Step)]
    network = load_network(model)
    prepare(network, "top")
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert result.model == model.reference
    assert result.path == str(model.path)
    assert (result.trainable_parameters, result.total_parameters) == (
        trained,
        sum(p.numel() for p in network.parameters()),
    )
    patches = len(next(e for e in events if isinstance(e, Started)).training) * CONFIG.patches * CONFIG.views
    passes = sum(s.samples for s in steps) / patches
    assert result.epochs == pytest.approx(passes)
    assert (result.rounds, result.stopped, result.cancelled) == (2, "complete", False)
    assert result.seconds_per_epoch == pytest.approx(sum(s.seconds for s in steps) / passes)
    assert sum(s.seconds for s in steps) < result.seconds_total


def test_the_run_folder_tells_the_whole_story(tuned):
    root, events, _ = tuned
    run = root / "run"
    assert TuneConfig.model_validate_json((run / "config.json").read_text()) == CONFIG
    split = json.loads((run / "split.json").read_text())
    assert split["held_out"] == list(events[-1].held_out_cases)
    assert sorted(s.split("_")[0] for s in split["train"] + split["held_out"]) == ["sub-ada", "sub-ada", "sub-bob"]
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [line.pop("event") for line in lines] == [type(e).__name__ for e in events]
    assert lines == [e.model_dump(mode="json") for e in events]
    with (run / "history.csv").open() as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    assert losses == pytest.approx([e.loss for e in events if isinstance(e, Step)], rel=1e-5)
    with (run / "metrics.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) == 2 * 2 * len(split["held_out"])


def test_the_best_weights_of_the_run_are_those_of_the_model(tuned):
    root, events, _ = tuned
    kept, model = load_file(root / "run" / "checkpoint-best.safetensors"), weights(ModelFolder(root / "mine"))
    assert kept
    assert all(torch.equal(kept[name], model[name]) for name in kept)
    means = [np.mean([s for s in e.figures.values() if s is not None]) for e in events if isinstance(e, Epoch)]
    assert events[-1].best_step == CONFIG.round_steps * (1 + int(np.argmax(means)))


def test_the_card_names_the_base_the_people_and_the_figures(tuned):
    root, events, _ = tuned
    card = ModelFolder(root / "mine").card
    assert f"**base** (weights {ModelFolder(root / 'base').digest})" in card
    figures = [reports[0].labels["skeleton"].dice for reports in (events[-1].before, events[-1].after)]
    assert "| skeleton | dice | {:.3f} | {:.3f} |".format(*figures) in card


def test_the_same_run_again_gives_the_same_weights(tuned, start, cases, tmp_path):
    events = list(start(cases))
    assert same(weights(ModelFolder(tmp_path / "models" / "mine")), weights(ModelFolder(tuned[0] / "mine")))
    assert events[-1].after == tuned[1][-1].after


# People, targets, refusals


def test_one_person_trains_and_nobody_judges(start, cases, tmp_path):
    events = list(start(cases[:2], CONFIG.model_copy(update={"rounds": 1})))
    result = events[-1]
    assert (result.before, result.after, result.held_out_cases) == ((), (), ())
    assert "nothing is known of unseen people" in ModelFolder(tmp_path / "models" / "mine").card
    assert [e.steps for e in events if isinstance(e, Started)] == [2]


def test_without_any_corrected_case_there_is_nothing_to_learn_from(start, tmp_path):
    with pytest.raises(InputError, match="found no corrected case, expected at least one"):
        list(start([]))
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "run").exists()


def test_a_model_is_never_overwritten(start, cases, tmp_path):
    target = tiny_model(tmp_path / "models", "mine")
    with pytest.raises(ModelError, match="Model mine: found a model of that name already"):
        list(start(cases))
    assert not (tmp_path / "run").exists()
    assert target.card == "# mine\n\nRandom weights.\n"


# Cancelling


@pytest.mark.parametrize("moment", ["at once", "started"])
def test_cancelling_before_the_first_step_leaves_no_model(start, cases, base, tmp_path, moment):
    stop, digest = StopToken(), base.digest
    if moment == "at once":
        stop.set()
    events = start(cases, stop=stop)

    def consume():
        for event in events:
            if isinstance(event, {"started": Started}.get(moment, ())):
                stop.set()

    with pytest.raises(CancelledError):
        consume()
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "run" / "checkpoint-best.safetensors").exists()
    assert base.digest == digest


def test_cancelling_after_a_step_keeps_what_was_learnt(start, cases, tmp_path):
    stop, events = StopToken(), []
    for event in start(cases, stop=stop):
        events.append(event)
        if isinstance(event, Step):
            stop.set()
    result = events[-1]
    assert isinstance(result, Tuned)
    assert result.cancelled
    assert result.after == ()
    assert result.best_step == 1
    assert result.rounds == 0
    model = ModelFolder(tmp_path / "models" / "mine")
    assert load_network(model)
    assert "cancelled by the user" in model.card
