"""The queue: which cases come next, what is said of each, and that a thousand of them cost the window little."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from qtpy.QtWidgets import QListWidgetItem
from waiting import wait_for

from napari_pcs.bids import CaseKey
from napari_pcs.data.phantom import phantom
from napari_pcs.gui import listing as module
from napari_pcs.gui.listing import Listing
from napari_pcs.labels import Hemisphere
from napari_pcs.session import Session

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


def keys(count):
    return tuple(CaseKey(f"{n:04}", "", side) for n in range(count // 2) for side in (L, R))


def test_uncorrected_cases_come_first_and_the_queue_begins_again_at_its_end():
    a, b, c, d = keys(4)
    listed = Listing((a, b, c, d), frozenset({c}))
    assert listed.after(None, 3) == [a, b, d]
    assert listed.after(b, 3) == [d, a, c]
    assert listed.after(d, 2) == [a, b]
    assert listed.after(CaseKey("else", "", L), 2) == [a, b]
    assert Listing((a,), frozenset()).after(a, 3) == []


@pytest.fixture
def panel(workspace, state, tmp_path, monkeypatch):
    """A session is open whose thousand cases are made up."""
    state.predict_ahead = False
    monkeypatch.setattr(module, "list_again", lambda _state: None)
    workspace.panels["Load"].do.open_session(tmp_path / "session")
    made = keys(1000)
    state.listing = Listing(made, frozenset(made[:400]))
    return workspace.panels["Load"]


def test_a_thousand_cases_are_listed_with_what_is_known_of_each(state, panel):
    assert panel.cases.count() == 1000
    assert panel.cases.item(399).text().split() == ["sub-0199_hemi-R", "corrected"]
    assert panel.cases.item(400).text() == "sub-0200_hemi-L"
    assert "1000 cases, 400 corrected" in panel.session_name.text()
    assert panel.do.next_case == state.listing.keys[400]


def test_one_more_correction_or_prediction_rewrites_one_line_of_a_thousand(state, panel, monkeypatch):
    written = []
    set_text = QListWidgetItem.setText
    monkeypatch.setattr(QListWidgetItem, "setText", lambda item, text: written.append(text) or set_text(item, text))
    known = state.listing
    state.listing = replace(known, corrected=known.corrected | {known.keys[400]})
    assert written == ["sub-0200_hemi-L   corrected"]
    state.ready = frozenset({known.keys[401]})
    assert written[1:] == ["sub-0200_hemi-R   predicted"]
    state.ready = frozenset()
    assert written[2:] == ["sub-0200_hemi-R"]


def test_what_a_job_may_have_written_is_looked_for_in_the_open_case_alone(state, panel, monkeypatch):
    looked = []
    exists = module._is_corrected
    monkeypatch.setattr(module, "_is_corrected", lambda session, key: looked.append(key) or exists(session, key))
    state.case = phantom(L, pcs_length_mm=30, spacing_mm=2.5)
    state.job = SimpleNamespace(title="a job", cancel=lambda: None)
    state.job = None
    assert set(looked) <= {state.case.key}
    assert len(state.listing.keys) == 1000


def test_the_next_case_opens_by_a_button_and_there_is_none_in_an_empty_session(state, workspace, tmp_path):
    load, correct = workspace.panels["Load"], workspace.panels["Correct"]
    assert not load.next.isEnabled()
    session = Session.create(tmp_path / "two")
    for name in ("a", "b"):
        session.add(replace(phantom(L, pcs_length_mm=30, spacing_mm=2.5), key=CaseKey(name, "", L), labels={}))
    load.do.open_session(session.root)
    wait_for(lambda: len(state.listing.keys) == 2)
    assert load.next.isEnabled()
    load.next.click()
    wait_for(lambda: state.job is None and state.case is not None)
    assert state.case.key.subject == "a"
    correct.next.click()
    wait_for(lambda: state.job is None and state.case.key.subject == "b")
