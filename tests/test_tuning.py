import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import corrected_by, predicted_by
from networks import CPU, look_through_a_small_box, tiny_model
from safetensors.torch import load_file

from napari_pcs.bids import CaseKey
from napari_pcs.caches import feature_cache
from napari_pcs.case import LabelRole
from napari_pcs.data.rehearsal import TuningRecord
from napari_pcs.errors import CancelledError, ModelError, SessionError
from napari_pcs.labels import Hemisphere
from napari_pcs.looked import Looked
from napari_pcs.models.folders import ModelFolder
from napari_pcs.session import Session
from napari_pcs.stop import StopToken
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Epoch, Step, Tuned
from napari_pcs.training.features import FrozenValues
from napari_pcs.tuning import (
    labelled_case,
    labelled_cases,
    new_model_folder,
    prepare_case,
    repeated,
    tune_session,
)

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
PRED, CORR = LabelRole.PREDICTED, LabelRole.CORRECTED
CONFIG = TuneConfig(rounds=2, round_steps=1, patch=32, patches=2, views=1, learning_rate=3e-4, seed=3)


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


@pytest.fixture
def session(tmp_path):
    return Session.create(tmp_path / "study")


@pytest.fixture
def base(session):
    return tiny_model(session.models, "base")


@pytest.fixture
def correct(session, coarse_left):
    """Put corrected cases into the session, perhaps partly done."""

    def correct(*names, partly_done=False):
        truth = coarse_left.labels[LabelRole.REFERENCE].data
        looked = Looked(x=((0, truth.shape[0] - 1),)) if partly_done else None
        provenance = corrected_by().model_copy(update={"partly_done": partly_done, "looked_at": looked})
        for name in names:
            case = replace(coarse_left, key=CaseKey(name, "", L), labels={})
            case = case.with_labels(PRED, (truth > 0).astype(np.uint8), predicted_by())
            session.add(case)
            session.write_labels(case, PRED)
            session.write_correction(case.with_labels(CORR, truth, provenance), truth, seconds=2.0)

    return correct


def tune(session, base, name, config=CONFIG, *, stop=None, until=None, **options):
    """Tune; return the events, the new model and the folder of the run."""
    before = set((session.root / "runs").glob("*")) if (session.root / "runs").exists() else set()
    events = []
    for event in tune_session(session, base, session.models / name, config, CPU, stop, **options):
        events.append(event)
        if until and until(event):
            break
    (run,) = {path.parent for path in session.root.rglob("inputs.json")} - before
    return events, ModelFolder(session.models / name), run


def weights(model):
    return load_file(model.path / "weights.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], tensor) for name, tensor in two.items())


# Cases


def test_all_corrected_cases_of_a_session_are_found_and_read_only_when_they_are_needed(session, correct, coarse_left):
    correct("bob", "ada")
    session.add(replace(coarse_left, key=CaseKey("eve", "", L), labels={}))
    found = labelled_cases(session)
    assert [case.name for case in found] == ["sub-ada_hemi-L", "sub-bob_hemi-L"]
    assert found[0].load().truth[0] is CORR
    assert not found[0].partly_done


def test_what_is_learnt_from_changes_a_digest_and_nothing_else_does(session, correct):
    correct("ada")
    key = CaseKey("ada", "", L)
    first = labelled_case(session, key).digest
    assert labelled_case(Session.open(session.root), key).digest == first
    (session.root / "sub-ada" / "anat" / "notes.txt").write_text("seen")
    assert labelled_case(session, key).digest == first
    case = session.load(key)
    labels = case.labels[CORR].data.copy()
    labels[tuple(np.argwhere(labels == 1)[0])] = 0
    session.write_correction(case.with_labels(CORR, labels, corrected_by()), labels, seconds=1.0)
    second = labelled_case(session, key).digest
    learnt = labelled_case(session, key).labels
    session.write_labels(case.with_labels(PRED, np.zeros_like(labels), predicted_by()), PRED)
    assert len({first, second, labelled_case(session, key).digest}) == 3
    assert labelled_case(session, key).labels == learnt


def test_a_correction_that_is_saved_again_as_it_was_is_the_same_case(session, correct):
    correct("ada")
    key = CaseKey("ada", "", L)
    first = labelled_case(session, key)
    case = session.load(key)
    session.write_correction(case, case.labels[CORR].data, seconds=60.0)
    second = labelled_case(session, key)
    assert (second.digest, second.labels) == (first.digest, first.labels)


def test_a_partly_done_correction_says_so(session, correct):
    correct("ada", partly_done=True)
    assert labelled_case(session, CaseKey("ada", "", L)).partly_done


def test_a_case_whose_file_is_gone_is_a_sentence(session, correct):
    correct("ada")
    (path,) = session.root.rglob("*desc-gw_dseg.nii.gz")
    path.unlink()
    with pytest.raises(SessionError, match=r"gw_dseg\.nii\.gz: found a file that cannot be read"):
        labelled_case(session, CaseKey("ada", "", L))


def test_new_models_are_named_after_the_base_and_the_strategy(session, base):
    assert new_model_folder(session, base, CONFIG).name == "base-top-1"
    tiny_model(session.models, "base-top-1")
    assert new_model_folder(session, base, CONFIG).name == "base-top-2"
    assert new_model_folder(session, base, CONFIG, "ours") == session.models / "ours"


# Prepared before anybody asks


def test_what_was_prepared_is_not_computed_again(session, base, correct, monkeypatch):
    correct("ada", "bob")
    computed = []
    compute = FrozenValues._compute
    monkeypatch.setattr(FrozenValues, "_compute", lambda self, *a: computed.append(a) or compute(self, *a))
    for name in ("ada", "bob"):
        prepare_case(session, CaseKey(name, "", L), base, CONFIG, CPU, StopToken())
    assert len(computed) == 2
    assert feature_cache().usage()[0] == 2
    tune(session, base, "mine")
    prepare_case(session, CaseKey("ada", "", L), base, CONFIG, CPU, StopToken())
    assert len(computed) == 2


def test_preparing_is_stopped_and_leaves_nothing(session, base, correct):
    correct("ada")
    stop = StopToken()
    stop.set()
    with pytest.raises(CancelledError):
        prepare_case(session, CaseKey("ada", "", L), base, CONFIG, CPU, stop)
    assert feature_cache().usage() == (0, 0)


# Repeating


def test_a_run_is_repeated_from_its_folder_with_the_same_weights_and_reports(session, base, correct):
    correct("ada", "bob", "cy")
    config = CONFIG.model_copy(update={"rounds": None, "budget": "best", "patience": 1, "learning_rate": 0.1})
    # A huge rate lets it end early, after a number of rounds that nobody asked for.
    events, model, run = tune(session, base, "first", config)
    assert events[-1].stopped == "early"
    again, settings, cases = repeated(session, run)
    assert again.digest == base.digest
    assert settings == config.model_copy(update={"rounds": sum(isinstance(e, Epoch) for e in events)})
    twice, other, _ = tune(session, again, "second", settings, cases=cases)
    assert equal(weights(model), weights(other))
    assert [e.loss for e in twice if isinstance(e, Step)] == [e.loss for e in events if isinstance(e, Step)]
    assert (twice[-1].before, twice[-1].after) == (events[-1].before, events[-1].after)
    assert twice[-1].best_step == events[-1].best_step
    assert TuningRecord.read(other.path) == TuningRecord.read(model.path)


def test_a_run_that_the_time_ended_is_repeated(session, base, correct, monkeypatch):
    """A clock on which every step takes seven seconds: two minutes are over after some rounds."""
    from napari_pcs.training import budget

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)
    correct("ada", "bob")
    config = CONFIG.model_copy(update={"rounds": None, "budget": "30s", "patience": 1000})

    def tick(event):
        clock.now += 7.0 if isinstance(event, Step) else 0.0

    events, model, run = tune(session, base, "first", config, until=tick)
    assert (events[-1].stopped, events[-1].rounds) == ("budget", 4)
    assert clock.now <= 30
    again, settings, cases = repeated(session, run)
    assert settings.rounds == 4
    twice, other, _ = tune(session, again, "second", settings, cases=cases)
    assert twice[-1].stopped == "complete"
    assert equal(weights(model), weights(other))
    assert twice[-1].after == events[-1].after


def test_a_cancelled_run_is_repeated_up_to_the_last_whole_round(session, base, correct):
    correct("ada", "bob")
    stop = StopToken()

    def cancel(event):
        if isinstance(event, Epoch):
            stop.set()

    events, model, run = tune(session, base, "first", CONFIG, stop=stop, until=cancel)
    assert events[-1].cancelled
    again, settings, cases = repeated(session, run)
    assert settings.rounds == 1
    _, other, _ = tune(session, again, "second", settings, cases=cases)
    assert equal(weights(model), weights(other))


def test_people_who_are_used_for_nothing_decide_the_split_of_a_repetition_too(session, base, correct):
    """Somebody who judged before and has partly done cases only is on neither side, and counts all the same."""
    correct("ada", "bob", "cy", "dan", "eve", "fay")
    correct("gus", "hal", "ida", partly_done=True)
    judges = ("gus", "hal", "ida")
    TuningRecord(trained={}, held_out=(), people_trained=(), people_held_out=judges).write(base.path)
    config = CONFIG.model_copy(update={"rounds": 1, "held_out_share": 0.4})
    _, _, run = tune(session, base, "first", config, until=lambda e: isinstance(e, Epoch))
    split = json.loads((run / "split.json").read_text())
    again, settings, cases = repeated(session, run)
    _, _, second = tune(session, again, "second", settings, cases=cases, until=lambda e: isinstance(e, Epoch))
    assert json.loads((second / "split.json").read_text()) == split


def test_a_run_without_a_whole_round_is_a_sentence(session, base, correct):
    correct("ada")
    _, _, run = tune(session, base, "first", until=lambda event: isinstance(event, Step))
    with pytest.raises(SessionError, match=f"Run {run.name}: found no round that was completed, expected at least one"):
        repeated(session, run)


@pytest.mark.parametrize("damage", ["config.json", "inputs.json", "all"])
def test_a_folder_that_is_no_run_is_a_sentence(session, base, correct, damage):
    correct("ada")
    _, _, run = tune(session, base, "first", until=lambda event: isinstance(event, Epoch))
    if damage == "all":
        run = session.root
    else:
        (run / damage).write_text('{"model"')
    with pytest.raises(SessionError, match=f"Run {run.name}: found no record of a tuning in"):
        repeated(session, run)


def test_a_model_or_a_case_that_has_changed_is_named(session, base, correct):
    correct("ada", "bob")
    _, _, run = tune(session, base, "first", until=lambda event: isinstance(event, Epoch))
    key = CaseKey("ada", "", L)
    case = session.load(key)
    labels = case.labels[CORR].data.copy()
    labels[labels == 2] = 1
    session.write_correction(case.with_labels(CORR, labels, corrected_by()), labels, seconds=1.0)
    with pytest.raises(ModelError, match=r"found cases that are not as they were then \(sub-ada_hemi-L\)"):
        repeated(session, run)
    shutil.rmtree(base.path)
    tiny_model(session.models, "base", seed=1)
    with pytest.raises(ModelError, match=rf"Model base: found weights .* as in run {run.name}"):
        repeated(session, run)


def test_tuning_leaves_the_sessions_labels_as_they_are(session, base, correct):
    correct("ada", "bob")
    before = {path: path.read_bytes() for path in session.root.rglob("sub-*") if path.is_file()}
    events, _, _ = tune(session, base, "mine")
    assert isinstance(events[-1], Tuned)
    assert {path: path.read_bytes() for path in session.root.rglob("sub-*") if path.is_file()} == before
