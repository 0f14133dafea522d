"""Tuning in the window: what can be chosen, what is seen while it goes on, and what is offered in the end."""

import time
from dataclasses import replace

import numpy as np
import pytest
from fake_worker import WORSE, FakeWorker, labels_of, step
from waiting import wait_for

from napari_pcs.case import LabelRole
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import PcsError
from napari_pcs.gui import tuning
from napari_pcs.labels import Hemisphere
from napari_pcs.provenance import Provenance
from napari_pcs.session import Session
from napari_pcs.training.config import TuneConfig
from napari_pcs.worker.messages import Prefetch, Tune

OUT_OF_MEMORY = "Tuning ran out of memory. Choose a smaller patch or the CPU, or close other programs."


@pytest.fixture(scope="module")
def cases():
    """Three people, alike but for their names."""
    made = [phantom(Hemisphere.LEFT, pcs_length_mm=30, spacing_mm=2.5)] * 3
    return [replace(case, key=case.key._replace(subject=f"p{n}")) for n, case in enumerate(made)]


@pytest.fixture
def session(tmp_path, cases):
    """Two of the three are corrected."""
    session = Session.create(tmp_path / "session")
    for n, case in enumerate(cases):
        session.add(replace(case, labels={}))
        if n:
            labels = labels_of(case)
            made = case.with_labels(LabelRole.CORRECTED, labels, Provenance(manual=True, hemisphere="L"))
            session.write_correction(made, np.zeros_like(labels), 1.0)
    return session


@pytest.fixture
def panel(state, workspace, session):
    workspace.panels["Load"].do.open_session(session.root)
    wait_for(lambda: len(state.listing.corrected) == 2)
    return workspace.panels["Tune"]


def tuned(state, panel):
    panel.run.click()
    assert state.tuning_job is not None
    wait_for(lambda: state.tuning_job is None, 20)
    return state.tune_run


def points(panel, name):
    x, y = panel.curves.lines[name].getData()
    return [] if x is None else list(zip(x, y, strict=True))


def asked(kind):
    return FakeWorker.made[0].asked(kind)


def open_case(state, do, key):
    do.open_case(key)
    wait_for(lambda: state.job is None and state.case is not None and state.case.key == key)


# Before


@pytest.mark.parametrize("strategy", ["top", "decoder", "lora", "full", "scratch"])
def test_every_strategy_can_be_chosen_is_explained_and_is_what_the_worker_gets(state, panel, fake_worker, strategy):
    panel.form.set("strategy", strategy)
    assert len(panel.strategy_note.text()) > 20
    tuned(state, panel)
    (request,) = asked(Tune)
    assert request.config.strategy == strategy
    assert request.model == "starter"


def test_the_learning_rate_is_that_of_the_strategy_until_somebody_chooses_one(state, panel):
    assert state.tuning.learning_rate == TuneConfig().learning_rate
    panel.form.set("strategy", "lora")
    assert state.tuning == TuneConfig(strategy="lora")
    assert panel.more.values()["learning_rate"] == state.tuning.learning_rate > TuneConfig().learning_rate
    panel.form.set("strategy", "decoder")
    assert state.tuning == TuneConfig(strategy="decoder")
    panel.more.set("learning_rate", 0.002)
    panel.form.set("strategy", "lora")
    assert state.tuning.learning_rate == panel.more.values()["learning_rate"] == 0.002


def test_options_of_lora_are_shown_with_lora_alone_and_reach_the_worker(state, panel):
    rows = panel.more
    assert not rows._rows.isRowVisible(rows._controls["lora"])
    panel.form.set("strategy", "lora")
    assert rows._rows.isRowVisible(rows._controls["lora"])
    lora = rows._controls["lora"]
    lora.set("rank", 4)
    lora.set("dora", True)
    tuned(state, panel)
    (request,) = asked(Tune)
    assert (request.config.lora.rank, request.config.lora.dora) == (4, True)


@pytest.mark.parametrize(
    ("choice", "words"), [("30s", "about 30 s"), ("2min", "about 2 minutes"), ("best", "until it stops improving")]
)
def test_the_time_is_chosen_in_words(state, panel, choice, words):
    assert words in [made.text() for made in panel.budget._buttons.values()]
    panel.budget.set(choice)
    tuned(state, panel)
    assert asked(Tune)[0].config.budget == choice


def test_it_says_on_what_it_would_tune(panel):
    assert "starter" in panel.about.text()
    assert "2 corrected hemispheres of 2 people" in panel.about.text()


def test_there_is_no_empty_plot_before_there_is_a_curve(state, panel):
    assert panel.curves.isHidden()
    tuned(state, panel)
    assert not panel.curves.isHidden()


# While it goes on


def test_the_curve_begins_with_the_first_step_and_held_out_figures_come_with_the_first_round(state, panel, fake_worker):
    fake_worker.step_s = 0.05
    panel.run.click()
    wait_for(lambda: points(panel, "loss"), 10)
    assert points(panel, "loss")[0][1] == pytest.approx(step(1, 8, 0).loss)
    assert points(panel, "held out dice_pcs") == []
    wait_for(lambda: points(panel, "held out dice_pcs"), 10)
    assert len(points(panel, "held out")) == len(points(panel, "held out dice_pcs"))
    assert len(points(panel, "loss")) >= 8


def test_what_is_left_is_told_in_the_panel_and_below_every_other_one(state, workspace, panel, fake_worker):
    fake_worker.step_s = 0.1
    panel.run.click()
    wait_for(lambda: "left" in panel.progress.text(), 10)
    assert "Step" in panel.progress.text()
    assert "Tuning starter: Step" in workspace.status.tuning.text()
    assert not workspace.status.tuning.parentWidget().isHidden()
    panel.do.cancel_tuning()
    wait_for(lambda: state.tuning_job is None, 10)
    assert workspace.status.tuning.parentWidget().isHidden()


def test_cancel_keeps_the_best_so_far_within_two_seconds(state, workspace, panel, session, fake_worker):
    fake_worker.step_s, fake_worker.steps = 0.05, 1000
    panel.run.click()
    wait_for(lambda: len(points(panel, "loss")) > 2, 10)
    began = time.monotonic()
    workspace.status.stop_tuning.click()
    wait_for(lambda: state.tuning_job is None, 10)
    assert time.monotonic() - began < 2
    assert state.tune_run.result.cancelled
    assert "best weights kept" in state.message.text
    assert (session.models / "starter-top-1").is_dir()
    assert panel.run.isEnabled()


def test_the_next_case_is_opened_corrected_and_saved_meanwhile(
    viewer, state, workspace, panel, session, cases, fake_worker
):
    fake_worker.step_s, fake_worker.steps = 0.05, 1000
    panel.run.click()
    wait_for(lambda: len(points(panel, "loss")) > 2, 10)
    do = workspace.panels["Load"].do
    workspace.panels["Correct"].next.click()
    wait_for(lambda: state.job is None and state.case is not None)
    assert state.case.key == cases[0].key
    wait_for(lambda: state.prediction is not None, 10)
    do.save_correction("A. Notator")
    wait_for(lambda: state.job is None)
    assert not state.message.is_error, state.message.text
    assert session.load(cases[0].key).labels[LabelRole.CORRECTED].provenance.editor == "A. Notator"
    assert state.tuning_job is not None
    assert len(state.tune_run.cases) == 2


def test_a_correction_that_is_being_learnt_from_stays_as_it_is(state, workspace, panel, session, cases, fake_worker):
    fake_worker.step_s, fake_worker.steps = 0.05, 1000
    panel.run.click()
    do = workspace.panels["Load"].do
    open_case(state, do, cases[1].key)
    before = session.files_to_tune_on(cases[1].key)[1].read_bytes()
    for refused in (lambda: do.save_correction("A. Notator"), do.predict):
        state.say("")
        refused()
        assert state.message.is_error
        assert "being learnt from" in state.message.text
    assert state.job is None
    assert session.files_to_tune_on(cases[1].key)[1].read_bytes() == before
    panel.do.cancel_tuning()
    wait_for(lambda: state.tuning_job is None, 10)
    do.save_correction("A. Notator")
    wait_for(lambda: state.job is None)
    assert not state.message.is_error


def test_a_second_tuning_is_refused_while_one_goes_on(state, panel, fake_worker):
    fake_worker.step_s, fake_worker.steps = 0.05, 1000
    panel.run.click()
    assert not panel.run.isEnabled()
    panel.do.tune(panel.config())
    assert "Tuning starter is still running" in state.message.text
    assert state.tune_run is not None
    wait_for(lambda: asked(Tune), 10)
    assert len(asked(Tune)) == 1


# When it fails


def test_a_worker_that_is_killed_is_a_sentence_and_the_next_click_starts_another_one(state, panel, fake_worker):
    fake_worker.dies = True
    panel.run.click()
    wait_for(lambda: state.tuning_job is None, 10)
    assert state.message.is_error
    assert "The labels are untouched" in state.message.text
    assert state.tune_run.is_over
    assert state.tune_run.result is None
    assert panel.run.isEnabled()
    fake_worker.dies = False
    assert tuned(state, panel).result is not None


def test_running_out_of_memory_is_a_sentence(state, panel, monkeypatch):
    def run(_self, _request, _stop, **_options):
        yield from ()
        raise PcsError(OUT_OF_MEMORY)

    monkeypatch.setattr(FakeWorker, "run", run)
    panel.run.click()
    wait_for(lambda: state.tuning_job is None, 10)
    assert state.message == type(state.message)(OUT_OF_MEMORY, is_error=True)


# In the end


def test_a_better_model_is_chosen_and_shown_against_the_old_one_with_the_time_it_took(state, workspace, panel):
    run = tuned(state, panel)
    assert state.model == "starter-top-1"
    assert workspace.panels["Predict"].model.currentText() == "starter-top-1"
    shown = [panel.table.item(row, 0).text() for row in range(panel.table.rowCount())]
    assert shown == ["PCS Dice", "Length error (mm)", "Skeleton Dice", "PCS Hausdorff (mm)"]
    assert (panel.table.item(0, 1).text(), panel.table.item(0, 2).text()) == ("0.400", "0.520")
    assert "better" in panel.verdict.text()
    for words in ("24 steps on cpu, fp32", "31 s in all", "to the first step", "to judge"):
        assert words in panel.progress.text()
    assert run.verdict.use_new
    panel.keep.click()
    assert state.model == "starter"
    assert not panel.keep.isEnabled()
    panel.use.click()
    assert state.model == "starter-top-1"


def test_a_worse_model_is_offered_and_not_chosen(state, workspace, panel, fake_worker):
    fake_worker.figures = WORSE
    tuned(state, panel)
    assert state.model == "starter"
    assert "not better" in panel.verdict.text()
    models = workspace.panels["Predict"].model
    assert "starter-top-1" in [models.itemText(n) for n in range(models.count())]
    panel.use.click()
    assert state.model == "starter-top-1"


def test_the_cases_that_come_next_are_predicted_anew_by_the_model_that_is_chosen_now(state, panel):
    wait_for(lambda: FakeWorker.made and asked(Prefetch), 10)
    tuned(state, panel)
    wait_for(lambda: asked(Prefetch)[-1].model == "starter-top-1", 10)


def test_a_saved_correction_is_prepared_for_tuning_again_even_if_there_was_one_before(
    state, workspace, panel, cases, viewer
):
    do = workspace.panels["Load"].do
    open_case(state, do, cases[1].key)
    time.sleep(0.3)
    wait_for(lambda: True)
    count = len(asked(Prefetch))
    layer = viewer.layers["labels"]
    layer.data_setitem((np.array([3]), np.array([3]), np.array([3])), np.array([2], np.uint8))
    do.save_correction("A. Notator")
    wait_for(lambda: state.job is None)
    wait_for(lambda: len(asked(Prefetch)) > count, 10)
    assert asked(Prefetch)[-1].tune == state.tuning


def test_the_seconds_that_a_cancelled_tuning_may_take_are_longer_than_its_own_two():
    assert tuning._PATIENCE_S > 2
