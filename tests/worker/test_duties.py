"""What the worker does for each request, in this process and with real networks that see little."""

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import corrected_by
from networks import CPU, look_through_a_small_box, tiny_model

from napari_pcs import predict as predicting
from napari_pcs.bids import CaseKey
from napari_pcs.caches import prediction_cache
from napari_pcs.case import LabelRole
from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import CancelledError, InputError, ModelError, PcsError
from napari_pcs.kept import KeptPredictions
from napari_pcs.labels import Hemisphere
from napari_pcs.models import store
from napari_pcs.models.lineage import Lineage
from napari_pcs.models.lineage import Stage as LineageStage
from napari_pcs.predict import Stage, predict
from napari_pcs.session import Session
from napari_pcs.stop import StopToken
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Preparing, Skipped
from napari_pcs.worker import prefetching
from napari_pcs.worker.duties import Duties
from napari_pcs.worker.events import Predicted, Prefetched
from napari_pcs.worker.handover import fetch, write_case
from napari_pcs.worker.loaded import LoadedNetworks
from napari_pcs.worker.messages import Cancel, HandedCase, Predict, Prefetch, StoredCase, Tune, Warm

L = Hemisphere.LEFT
NAMES = ("ada", "bob", "cid")


@pytest.fixture(scope="module")
def cases():
    return [
        replace(phantom(L, pcs_length_mm=30.0 * n, seed=n), key=CaseKey(name, "", L)) for n, name in enumerate(NAMES)
    ]


@pytest.fixture
def session(tmp_path, cases):
    session = Session.create(tmp_path / "Sitzung ü")
    for case in cases:
        session.add(replace(case, labels={}))
    return session


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


@pytest.fixture
def model(session):
    return tiny_model(session.models)


@pytest.fixture
def loads(monkeypatch):
    """Names of the models whose weights are read."""
    found = []
    load = store.load_segmenter
    monkeypatch.setattr(store, "load_segmenter", lambda model, **o: found.append(model.name) or load(model, **o))
    return found


@pytest.fixture
def passes(monkeypatch):
    """Names of the cases that a network sees."""
    found = []
    see = predicting.network_input
    monkeypatch.setattr(predicting, "network_input", lambda case, **o: found.append(case.key.subject) or see(case, **o))
    return found


def do(duties, request, stop=None):
    return [event for piece in duties.pieces(request) for event in piece(stop or StopToken())]


def stored(session, case, **options):
    return Predict(
        case=StoredCase(session=str(session.root), case=case.key.stem), model="tiny", device="cpu", **options
    )


def prefetch(session, *cases, **options):
    stems = tuple(case if isinstance(case, str) else case.key.stem for case in cases)
    return Prefetch(session=str(session.root), cases=stems, model="tiny", device="cpu", **options)


def same(found, expected):
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=5e-4)
    assert found.measurement == expected.measurement
    assert found.model == expected.model


# Predicting


def test_a_case_of_a_session_is_predicted_as_by_predict_itself(session, model, cases):
    *stages, told = do(Duties(), stored(session, cases[1]))
    assert [stage.name for stage in stages] == ["prepare", "prepare", "network", "postprocess"]
    assert isinstance(told, Predicted)
    assert (told.kept, told.temporary) == (False, False)
    expected = predict(session.load(cases[1].key), store.load_segmenter(model), model.reference, CPU)
    same(fetch(told, cases[1]), expected)


def test_a_case_without_a_session_is_predicted_as_well(tmp_path, session, model, cases):
    handed = HandedCase(path=str(write_case(cases[2], tmp_path)))
    told = do(Duties(), Predict(case=handed, model="tiny", models=(str(session.models),), device="cpu"))[-1]
    same(fetch(told, cases[2]), fetch(do(Duties(), stored(session, cases[2]))[-1], cases[2]))


def test_what_was_predicted_before_is_not_predicted_again_unless_asked_to(session, model, cases, passes):
    duties = Duties()
    first = do(duties, stored(session, cases[0]))[-1]
    (second,) = do(duties, stored(session, cases[0]))
    assert passes == ["ada"]
    assert (first.kept, second.kept) == (False, True)
    same(fetch(second, cases[0]), fetch(first, cases[0]))
    again = do(duties, stored(session, cases[0], again=True))[-1]
    assert passes == ["ada", "ada"]
    assert not again.kept


def test_another_model_has_its_own_predictions(session, model, cases):
    duties = Duties()
    do(duties, stored(session, cases[0]))
    tiny_model(session.models, "other", seed=2)
    told = do(duties, stored(session, cases[0]).model_copy(update={"model": "other"}))[-1]
    assert not told.kept
    assert told.model.name == "other"


def test_stopping_leaves_nothing_behind(session, model, cases):
    stop = StopToken()
    (piece,) = Duties().pieces(stored(session, cases[0]))
    events = piece(stop)
    while next(events).name != "network":
        pass
    stop.set()
    with pytest.raises(CancelledError):
        list(events)
    assert not KeptPredictions(prediction_cache()).has(cases[0], model.digest)


def test_a_network_is_read_once_and_the_least_recently_used_of_three_goes(session, cases, loads):
    folders = [tiny_model(session.models, name, seed) for seed, name in enumerate("abc")]
    networks = LoadedNetworks()
    first = networks.get(folders[0])
    networks.get(folders[1])
    assert networks.get(folders[0]) is first
    networks.get(folders[2])
    assert networks.get(folders[0]) is first
    assert loads == ["a", "b", "c"]
    networks.get(folders[1])
    assert loads == ["a", "b", "c", "b"]


def test_a_copy_may_be_trained_and_what_is_kept_stays_as_it_is(session, model, cases):
    networks = LoadedNetworks()
    list(networks.predict(model, cases[0], "cpu", StopToken()))
    copy = networks.copy(model)
    before = {name: tensor.clone() for name, tensor in networks.get(model).state_dict().items()}
    for parameter in copy.parameters():
        parameter.requires_grad_()
        torch.nn.init.zeros_(parameter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks.get(model).state_dict().items())


def test_a_warm_model_need_not_be_read_again(session, model, cases, loads):
    duties = Duties()
    warm = Warm(model="tiny", models=(str(session.models),), device="cpu")
    assert do(duties, warm) == [Stage("prepare", "Loading tiny")]
    assert do(duties, warm) == []
    do(duties, stored(session, cases[0]))
    assert loads == ["tiny"]


def test_weights_that_were_replaced_are_read_again(session, model, cases, loads):
    duties = Duties()
    do(duties, stored(session, cases[0]))
    other = tiny_model(session.models, "other", seed=2)
    for name in ("weights.safetensors", "digest"):
        (model.path / name).write_bytes((other.path / name).read_bytes())
    assert not do(duties, stored(session, cases[0]))[-1].kept
    assert loads == ["tiny", "tiny"]


def test_relief_lets_the_networks_go(session, model, cases, loads):
    duties = Duties()
    do(duties, stored(session, cases[0]))
    duties.relieve()
    do(duties, stored(session, cases[1]))
    assert loads == ["tiny", "tiny"]


def test_a_model_that_was_only_pretrained_is_refused(session, model, cases):
    stage = LineageStage(name="tiny", objective="reconstruction", data="x", epochs=1, parts=("encoder",))
    (model.path / "lineage.json").write_text(Lineage(stages=(stage,)).model_dump_json())
    with pytest.raises(ModelError, match="pre-trained"):
        do(Duties(), stored(session, cases[0]))


def test_what_cannot_be_found_is_a_sentence(session, model, cases):
    with pytest.raises(ModelError, match="found no model of that name"):
        do(Duties(), stored(session, cases[0]).model_copy(update={"model": "nobody"}))
    with pytest.raises(ModelError, match="Device mps"):
        do(Duties(), Warm(model="tiny", models=(str(session.models),), device="mps"))
    with pytest.raises(InputError):
        do(Duties(), Predict(case=StoredCase(session=str(session.root), case="sub-nobody_hemi-L"), model="tiny"))
    with pytest.raises(PcsError, match="session"):
        do(Duties(), Predict(case=StoredCase(session=str(session.models), case=cases[0].key.stem), model="tiny"))
    with pytest.raises(PcsError, match="Cancel"):
        do(Duties(), Cancel())


# Prefetching


def test_cases_are_predicted_in_order_and_those_that_are_kept_are_not(session, model, cases, passes):
    duties = Duties()
    do(duties, stored(session, cases[1]))
    passes.clear()
    events = do(duties, prefetch(session, cases[2], cases[1], cases[0]))
    assert events == [Prefetched(case=case.key.stem, what="prediction") for case in (cases[2], cases[1], cases[0])]
    assert passes == ["cid", "ada"]
    passes.clear()
    assert all(do(duties, stored(session, case))[-1].kept for case in cases)
    assert not passes


def test_a_case_that_cannot_be_read_is_skipped_with_a_sentence(session, model, cases):
    next(session.root.glob("sub-bob/**/*_desc-gw_dseg.nii.gz")).write_bytes(b"damaged")
    first, skipped, last, nobody = do(
        Duties(), prefetch(session, cases[0], cases[1], cases[2], "sub-nobody_hemi-L", tune=None)
    )
    assert isinstance(first, Prefetched)
    assert isinstance(last, Prefetched)
    assert (skipped.name, skipped.count, skipped.of) == (cases[1].key.stem, 1, 4)
    assert "damaged" in skipped.reason or "expected" in skipped.reason
    assert isinstance(nobody, Skipped)
    assert nobody.count == 2


def test_a_piece_that_was_interrupted_can_be_begun_again(session, model, cases):
    duties, stop = Duties(), StopToken()
    first, _ = duties.pieces(prefetch(session, cases[0], cases[1]))
    stop.set()
    with pytest.raises(CancelledError):
        list(first(stop))
    assert list(first(StopToken())) == [Prefetched(case=cases[0].key.stem, what="prediction")]


def test_nothing_is_computed_for_a_cache_that_refuses(session, model, cases, passes, monkeypatch):
    monkeypatch.setattr(Bundles, "write", lambda *_: False)
    with pytest.raises(PcsError, match="Nothing is predicted in advance"):
        do(Duties(), prefetch(session, cases[0], cases[1]))
    assert passes == ["ada"]


@pytest.fixture
def tuning(monkeypatch):
    """In place of tuning: what was asked of it."""
    asked = []

    def tune_session(session, base, target, config, device, stop, *, load):
        asked.append(("tune", session.root, base.name, target.name, config, device, stop, load))
        yield Preparing(sentence="tuning")

    def prepare_case(session, key, base, config, device, stop, *, load):
        asked.append(("features", key.subject, base.name, config, device, stop, load))

    def new_model_folder(session, base, config, name=None):
        return session.models / (name or "new")

    fake = SimpleNamespace(tune_session=tune_session, prepare_case=prepare_case, new_model_folder=new_model_folder)
    monkeypatch.setitem(sys.modules, "napari_pcs.tuning", fake)
    return asked


def test_tuning_gets_the_session_the_model_and_a_network_that_need_not_be_read(session, model, cases, tuning, loads):
    duties, stop = Duties(), StopToken()
    do(duties, stored(session, cases[0]))
    request = Tune(session=str(session.root), model="tiny", name="mine", device="cpu", config=TuneConfig(seed=4))
    assert do(duties, request, stop) == [Preparing(sentence="tuning")]
    ((_, root, base, target, config, device, token, load),) = tuning
    assert (root, base, target, config, device) == (session.root, "tiny", "mine", TuneConfig(seed=4), CPU)
    assert token is stop
    load(model)
    assert loads == ["tiny"]


def test_what_tuning_needs_of_corrected_cases_comes_after_all_predictions(session, model, cases, tuning):
    for case in (cases[0], cases[2]):
        corrected = case.with_labels(LabelRole.CORRECTED, case.labels[LabelRole.REFERENCE].data, corrected_by())
        session.write_labels(corrected, LabelRole.CORRECTED)
    config = TuneConfig(views=1)
    events = do(Duties(), prefetch(session, *cases, tune=config))
    stems = [case.key.stem for case in cases]
    assert [(e.case, e.what) for e in events] == [
        *((stem, "prediction") for stem in stems),
        (stems[0], "features"),
        (stems[2], "features"),
    ]
    assert [asked[1:4] for asked in tuning] == [("ada", "tiny", config), ("cid", "tiny", config)]


def correct(session, *cases):
    for case in cases:
        corrected = case.with_labels(LabelRole.CORRECTED, case.labels[LabelRole.REFERENCE].data, corrected_by())
        session.write_labels(corrected, LabelRole.CORRECTED)


def prepared(tuning):
    return [asked[1] for asked in tuning if asked[0] == "features"]


def test_all_corrected_cases_are_prepared_those_asked_for_first_and_then_the_latest(session, model, cases, tuning):
    correct(session, *cases)
    for n, case in enumerate(cases):
        moment = 1_000_000_000 + 60 * n
        os.utime(session.files_to_tune_on(case.key)[1], (moment, moment))
    do(Duties(), prefetch(session, cases[1], tune=TuneConfig(views=1)))
    assert prepared(tuning) == ["bob", "cid", "ada"]


def test_what_is_prepared_is_prepared_again_only_if_files_or_settings_have_changed(session, model, cases, tuning):
    correct(session, cases[0], cases[2])
    duties, config = Duties(), TuneConfig(views=1)
    do(duties, prefetch(session, cases[0], tune=config))
    assert prepared(tuning) == ["ada", "cid"]
    do(duties, prefetch(session, cases[0], tune=config.model_copy(update={"budget": "best", "batch_size": 7})))
    assert prepared(tuning) == ["ada", "cid"]
    os.utime(session.files_to_tune_on(cases[2].key)[1], (1, 1))
    do(duties, prefetch(session, cases[0], tune=config))
    assert prepared(tuning) == ["ada", "cid", "cid"]
    do(duties, prefetch(session, cases[0], tune=config.model_copy(update={"patches": 2})))
    assert len(prepared(tuning)) == 5
    do(duties, prefetch(session, cases[0]))
    assert len(prepared(tuning)) == 5


def test_no_more_cases_are_prepared_than_the_cache_is_meant_to_hold(session, model, cases, tuning, monkeypatch):
    correct(session, *cases)
    monkeypatch.setattr(prefetching, "_MOST", 2)
    do(Duties(), prefetch(session, cases[2], tune=TuneConfig(views=1)))
    assert len(prepared(tuning)) == 2
    assert prepared(tuning)[0] == "cid"


def test_a_case_that_was_skipped_once_is_not_told_of_twice(session, model, cases, tuning):
    events = do(Duties(), prefetch(session, "sub-nobody_hemi-L", tune=TuneConfig()))
    assert [type(event) for event in events] == [Skipped]
