"""Where a session's tunings begin: which of its cases, and where the new model lies."""

from dataclasses import replace
from types import MappingProxyType

import pytest
from builders import corrected_by, predicted_by
from networks import CPU, look_through_a_small_box, tiny_model

from napari_pcs.case import LabelRole
from napari_pcs.errors import InputError, ModelError
from napari_pcs.labels import Hemisphere
from napari_pcs.models.folders import ModelFolder
from napari_pcs.session import Session
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Started
from napari_pcs.tuning import new_model_folder, tune_session

R = Hemisphere.RIGHT
REF, PRED, CORR = LabelRole.REFERENCE, LabelRole.PREDICTED, LabelRole.CORRECTED


def test_a_new_model_gets_the_first_free_number(tmp_path):
    session, base = Session.create(tmp_path / "study"), tiny_model(tmp_path, "base")
    names = []
    for _ in range(3):
        folder = new_model_folder(session, base, TuneConfig())
        names.append(folder.name)
        folder.mkdir(parents=True)
    assert names == ["base-top-1", "base-top-2", "base-top-3"]
    (session.models / "base-top-2").rmdir()
    assert new_model_folder(session, base, TuneConfig()) == session.models / "base-top-2"


def test_a_session_trains_on_its_corrected_cases_only(tmp_path, monkeypatch, coarse_left, coarse_right):
    look_through_a_small_box(monkeypatch)
    session = Session.create(tmp_path / "study")
    session.add(coarse_left)  # a reference, which nobody has corrected
    truth = coarse_right.labels[REF].data
    right = replace(coarse_right, labels=MappingProxyType({})).with_labels(PRED, truth, predicted_by(R))
    session.add(right)
    session.write_correction(right.with_labels(CORR, truth, corrected_by(hemisphere=R)), truth, seconds=3.0)
    base, config = tiny_model(tmp_path, "base"), TuneConfig(rounds=1, round_steps=2, patch=32, views=1)
    target = new_model_folder(session, base, config)
    events = list(tune_session(session, base, target, config, CPU))
    started = next(e for e in events if isinstance(e, Started))
    assert started.training == (coarse_right.key.stem,)
    assert events[-1].path == str(target)
    runs = list((session.root / "runs").iterdir())
    assert [str(run) for run in runs] == [events[-1].run]
    assert runs[0].name.endswith("_tune-top")


def test_a_session_without_corrections_cannot_train(tmp_path, coarse_left):
    session = Session.create(tmp_path / "study")
    session.add(coarse_left)
    with pytest.raises(InputError, match="no corrected case"):
        list(tune_session(session, tiny_model(tmp_path), session.models / "x", TuneConfig(), CPU))
    assert not session.models.exists()


@pytest.mark.parametrize("name", ["../elsewhere", "", "a/b", ".hidden", "with space"])
def test_a_name_that_leads_out_of_the_sessions_models_is_refused(tmp_path, name):
    session = Session.create(tmp_path / "session")
    with pytest.raises(ModelError, match="found a name that is no folder's"):
        new_model_folder(session, ModelFolder(tmp_path / "starter"), TuneConfig(), name)
    good = new_model_folder(session, ModelFolder(tmp_path / "starter"), TuneConfig(), "mine-2")
    assert good == session.models / "mine-2"
