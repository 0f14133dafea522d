"""Many cases through one model: what is written, what is skipped, what fails, and how it stops."""

import json
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from builders import corrected_by
from networks import CPU, look_through_a_small_box, tiny_network
from quick_prediction import MODEL, OTHER, QuickNetwork, quick_prediction

from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources.base import Source
from napari_pcs.bids import CaseKey
from napari_pcs.case import LabelRole
from napari_pcs.cohort_prediction import CohortPrediction, Hands
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.data.bundles import Bundles
from napari_pcs.errors import CancelledError, InputError, SessionError
from napari_pcs.inputs import Refused, Scan, Stored
from napari_pcs.kept import KeptPredictions
from napari_pcs.labels import Hemisphere
from napari_pcs.predict import predict
from napari_pcs.session import Session
from napari_pcs.stop import StopToken

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
PRED, CORR = LabelRole.PREDICTED, LabelRole.CORRECTED


@dataclass(frozen=True)
class Made(Source):
    """Gives the cases that it was made with, and counts how often."""

    kind = "made for this test"
    cases: tuple = ()
    reads: tuple = ()  # of one list

    @classmethod
    def find(cls, path):
        return ()

    def load(self, hemispheres, stop):
        yield Step("Reading", 0.5)
        for side in hemispheres:
            self.reads[0].append(side)
        yield from (case for case in self.cases if case.key.hemisphere in hemispheres)


@pytest.fixture(autouse=True)
def known_frames(monkeypatch):
    """Cases of a few voxels have a side that nobody can check, and no commissures to look for."""
    monkeypatch.setattr("napari_pcs.anatomy.sources.base.check_side", lambda *_: None)
    monkeypatch.setattr("napari_pcs.anatomy.sources.base.locate", lambda case, _stop: (case, "made up"))


@pytest.fixture
def session(tmp_path):
    return Session.create(tmp_path / "study")


@pytest.fixture
def scans(tmp_path, small_case):
    """Make inputs, each of a file of its own with cases of these sides."""

    def build(count, sides=(L,)):
        made = []
        for n in range(count):
            path = tmp_path / f"scan-{n:03}"
            path.write_bytes(b"x")
            cases = tuple(small_case(f"{n:03}", hemisphere=side) for side in sides)
            made.append(Scan(path, None, Made(path, f"{n:03}", "", sides, cases, ([],))))
        return made

    return build


@pytest.fixture
def quick(monkeypatch):
    return QuickNetwork(monkeypatch)


def run(session, inputs, stop=None, model=MODEL, **options):
    work = CohortPrediction(session, None, model, CPU, **options)
    return list(work.run(enumerate(inputs), stop))


def reads(scan):
    return scan.source.reads[0]


def keys_of(session):
    return list(session.keys())


def content_of(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# What is written


def test_every_case_of_every_input_is_written_with_its_prediction(session, scans, quick):
    inputs = scans(4, (L, R))
    outcomes = run(session, inputs)
    assert [o.number for o in outcomes] == [(n, part) for n in range(4) for part in (0, 1)]
    assert [o.state for o in outcomes] == ["predicted"] * 8
    assert [o.name for o in outcomes] == [key.stem for key in keys_of(session)] == quick.seen
    for case in session.cases():
        np.testing.assert_array_equal(case.labels[PRED].data, quick_prediction(case).labels)
        assert case.labels[PRED].provenance.model == MODEL


def test_a_case_is_predicted_as_it_is_alone(monkeypatch, session, coarse_left, tmp_path):
    look_through_a_small_box(monkeypatch)
    network, path = tiny_network(2), tmp_path / "scan"
    path.write_bytes(b"x")
    scan = Scan(path, None, Made(path, coarse_left.key.subject, "", (L,), (coarse_left,), ([],)))
    (outcome,) = CohortPrediction(session, network, MODEL, CPU).run([(0, scan)])
    alone = predict(coarse_left, network, MODEL, CPU)
    stored = session.load(coarse_left.key).labels[PRED]
    np.testing.assert_array_equal(stored.data, alone.labels)
    found = outcome.record
    assert found["length_mm"] == pytest.approx(alone.measurement.length_mm)
    assert found["uncertainty"] == pytest.approx(alone.uncertainty)
    assert set(found["timings_s"]) == {"read", "prepare", "network", "postprocess", "total"}
    assert sum(found["timings_s"].values()) == pytest.approx(2 * found["timings_s"]["total"])


def test_times_are_those_of_the_work_and_not_of_waiting(session, scans, monkeypatch):
    QuickNetwork(monkeypatch, during=lambda _stem, _stop: time.sleep(0.05))
    outcomes = run(session, scans(6))
    for outcome in outcomes:
        timing = outcome.record["timings_s"]
        assert timing["network"] >= 0.05
        assert timing["prepare"] + timing["postprocess"] + timing["read"] < 0.05 * len(outcomes)


def test_what_the_record_says_is_kept_with_the_prediction(session, scans, quick):
    (outcome,) = run(session, scans(1))
    key = session.keys()[0]
    assert session.said_of(key) == json.loads(json.dumps(outcome.record))


# Overlap and order


def test_a_case_is_read_while_one_is_in_the_network_and_another_is_written(session, scans, monkeypatch):
    """Each of the three waits for the others: one after the other they would wait for ever."""
    together, write = threading.Barrier(3), Session.write_prediction

    def in_network(stem, _stop):
        if stem == "sub-001_hemi-L":
            together.wait(timeout=30)

    def writing(self, case, *rest):
        if case.key.subject == "000":
            together.wait(timeout=30)
        return write(self, case, *rest)

    @dataclass(frozen=True)
    class Waiting(Made):
        def load(self, hemispheres, stop):
            together.wait(timeout=30)
            yield from super().load(hemispheres, stop)

    QuickNetwork(monkeypatch, during=in_network)
    monkeypatch.setattr(Session, "write_prediction", writing)
    inputs = scans(4)
    source = inputs[2].source
    inputs[2] = replace(inputs[2], source=Waiting(source.path, source.subject, "", (L,), source.cases, source.reads))
    assert [o.state for o in run(session, inputs)] == ["predicted"] * 4


def test_no_more_cases_exist_than_may_be_in_flight(session, scans, monkeypatch):
    hands, inputs, most = Hands(read=2, measure=1, write=1), scans(30), []

    def count(_stem, _stop):
        time.sleep(0.005)
        most.append(sum(bool(reads(scan)) for scan in inputs))

    network = QuickNetwork(monkeypatch, during=count)
    done = 0
    for _ in CohortPrediction(session, None, MODEL, CPU, hands=hands).run(enumerate(inputs)):
        done += 1
        # One that is taken here lets one more in before it is counted.
        assert sum(bool(reads(scan)) for scan in inputs) <= done + hands.in_flight
    assert (done, len(network.seen)) == (30, 30)
    assert hands.in_flight == 7
    assert max(most) == 30


def test_several_hands_write_the_same_as_one(tmp_path, scans, quick):
    inputs = scans(12, (L, R))
    sessions = [Session.create(tmp_path / name) for name in ("one", "many")]
    numbers = []
    for session, hands in zip(sessions, (Hands(), Hands(3, 2, 3)), strict=True):
        numbers.append([o.number for o in run(session, inputs, hands=hands)])
    assert numbers[0] == sorted(numbers[0]) == sorted(numbers[1])
    one, many = sessions
    assert one.keys() == many.keys()
    assert (one.root / "participants.tsv").read_bytes() == (many.root / "participants.tsv").read_bytes()
    for key in keys_of(one):
        np.testing.assert_array_equal(one.load(key).labels[PRED].data, many.load(key).labels[PRED].data)


def test_hands_follow_the_device_and_the_memory(monkeypatch):
    class Memory:
        available = 64 * 10**9

    import torch

    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory)
    assert Hands.for_device(CPU) == Hands(1, 1, 1)
    gpu = torch.device("cuda")
    assert Hands.for_device(gpu) == Hands(8, 4, 4)
    assert Hands.for_device(gpu, processes=8) == Hands(2, 1, 1)
    Memory.available = 2 * 10**9
    assert Hands.for_device(gpu) == Hands(2, 1, 1)


# What fails


@pytest.mark.parametrize("stage", ["read", "network", "write"])
@pytest.mark.parametrize("error", [InputError(found="noise", expected="a brain"), ZeroDivisionError("by nothing")])
def test_a_case_that_fails_is_one_sentence_and_stops_no_other(session, scans, monkeypatch, stage, error, caplog):
    def fail(where, name):
        if where == stage and "001" in name:
            raise error

    write = Session.write_prediction
    QuickNetwork(monkeypatch, during=lambda stem, _stop: fail("network", stem))
    monkeypatch.setattr(
        Session, "write_prediction", lambda s, case, *r: (fail("write", case.key.stem), write(s, case, *r))[1]
    )

    @dataclass(frozen=True)
    class Failing(Made):
        def load(self, hemispheres, stop):
            fail("read", self.subject)
            yield from super().load(hemispheres, stop)

    inputs = scans(4)
    inputs = [replace(i, source=Failing(i.path, i.source.subject, "", (L,), i.source.cases, ([],))) for i in inputs]
    outcomes = sorted(run(session, inputs), key=lambda o: o.number)
    assert [o.state for o in outcomes] == ["predicted", "failed", "predicted", "predicted"]
    failed = outcomes[1]
    assert (failed.error, failed.record, failed.path) == (error, None, inputs[1].path)
    assert failed.name == ("scan-001" if stage == "read" else "sub-001_hemi-L")
    expected = str(error) if isinstance(error, InputError) else f"{failed.name}: ZeroDivisionError: by nothing"
    assert failed.reason == expected
    assert ("could not be predicted" in caplog.text) == isinstance(error, ZeroDivisionError)
    predicted = [key.subject for key in keys_of(session) if PRED in session.load(key).labels]
    assert predicted == ["000", "002", "003"]


def test_what_holds_nothing_is_an_outcome_too(session, scans, quick):
    reason = InputError(found="an empty folder", expected="a scan")
    one, two = run(session, [Refused(Path("empty"), reason), *scans(1)])
    assert (one.state, one.reason, one.name) == ("failed", str(reason), "empty")
    assert two.state == "predicted"


def test_another_image_under_the_same_name_is_refused_before_the_network_and_nothing_changes(session, scans, quick):
    (scan,) = scans(1)
    run(session, [scan])
    before = content_of(session.root)
    other = scan.path.with_name("other")
    other.write_bytes(b"y")
    (case,) = scan.source.cases
    changed = replace(case, tissue=replace(case.tissue, data=2 - case.tissue.data))
    made = Made(other, "000", "", (L,), (changed,), ([],))
    (outcome,) = run(session, [Scan(other, None, made)], again=True)
    assert isinstance(outcome.error, SessionError)
    assert "found another hemisphere of that name" in outcome.reason
    assert quick.seen == ["sub-000_hemi-L"]
    assert content_of(session.root) == before


# What is skipped


def test_what_is_there_is_skipped_without_being_read_and_with_all_its_figures(session, scans, quick):
    inputs = scans(3, (L, R))
    first = run(session, inputs[:2])
    before = content_of(session.root)
    again = sorted(run(session, inputs), key=lambda o: o.number)
    assert [o.state for o in again] == ["skipped"] * 4 + ["predicted"] * 2
    assert [reads(scan) for scan in inputs] == [[L, R]] * 3
    for one, two in zip(first, again, strict=False):
        assert two.record == {**json.loads(json.dumps(one.record)), "skipped": True}
    assert {name: content_of(session.root)[name] for name in before if "participants" not in name} == {
        name: content for name, content in before.items() if "participants" not in name
    }


def test_again_predicts_anew_and_leaves_the_correction(session, scans, quick):
    inputs = scans(1)
    run(session, inputs)
    (key,) = session.keys()
    case = session.load(key)
    labels = np.ones_like(case.tissue.data)
    corrected = case.with_labels(CORR, labels, corrected_by())
    path = session.write_correction(corrected, case.labels[PRED].data, 1.0)
    before = path.read_bytes()
    assert [o.state for o in run(session, inputs, again=True)] == ["predicted"]
    assert quick.seen == [key.stem] * 2
    assert path.read_bytes() == before


def test_another_model_predicts_the_case_that_the_session_has_and_reads_no_scan(session, scans, quick):
    inputs = scans(2)
    run(session, inputs)
    assert [o.state for o in run(session, inputs, model=OTHER)] == ["predicted"] * 2
    assert [reads(scan) for scan in inputs] == [[L], [L]]
    assert {session.load(key).labels[PRED].provenance.model for key in keys_of(session)} == {OTHER}
    assert [o.state for o in run(session, inputs)] == ["predicted"] * 2


def test_a_file_that_has_changed_is_read_again(session, scans, quick):
    inputs = scans(2)
    run(session, inputs)
    inputs[0].path.write_bytes(b"changed")
    assert {o.state for o in run(session, inputs)} == {"skipped"}  # the image is the same
    assert [reads(scan) for scan in inputs] == [[L, L], [L]]
    run(session, inputs)
    assert [reads(scan) for scan in inputs] == [[L, L], [L]]  # and is known from now on


def test_a_folder_is_read_again_when_a_file_in_it_has_changed(session, small_case, tmp_path, quick):
    folder = tmp_path / "ada"
    (folder / "mri").mkdir(parents=True)
    (folder / "mri" / "ribbon").write_bytes(b"one")
    (folder / "mri" / "other").write_bytes(b"one")
    scan = Scan(folder, None, Made(folder, "ada", "", (L,), (small_case("ada"),), ([],)))
    run(session, [scan])
    run(session, [scan])
    assert reads(scan) == [L]
    os.utime(folder / "mri" / "ribbon", ns=(1, time.time_ns() + 10**9))
    run(session, [scan])
    assert reads(scan) == [L, L]


def test_only_the_missing_side_of_a_scan_is_read(session, scans, quick):
    (scan,) = scans(1, (L, R))
    left = replace(scan, hemisphere=L)
    run(session, [left])
    outcomes = sorted(run(session, [scan]), key=lambda o: o.name)
    assert [(o.name, o.state) for o in outcomes] == [("sub-000_hemi-L", "skipped"), ("sub-000_hemi-R", "predicted")]
    assert reads(scan) == [L, R]


def test_an_image_that_was_prepared_anew_is_predicted_anew(session, scans, quick):
    inputs = scans(1)
    run(session, inputs)
    (key,) = session.keys()
    (tissue,) = session.root.glob("sub-*/anat/*_desc-gw_dseg.nii.gz")
    os.utime(tissue, ns=(1, time.time_ns() + 10**9))
    assert [o.state for o in run(session, inputs)] == ["predicted"]
    assert quick.seen == [key.stem] * 2


def test_lengths_follow_the_commissures_that_somebody_has_set_since(session, coarse_left, tmp_path, monkeypatch):
    look_through_a_small_box(monkeypatch)
    path = tmp_path / "scan"
    path.write_bytes(b"x")
    scan = Scan(path, None, Made(path, coarse_left.key.subject, "", (L,), (replace(coarse_left, labels={}),), ([],)))
    network = tiny_network(2)
    (first,) = CohortPrediction(session, network, MODEL, CPU).run([(0, scan)])
    (second,) = CohortPrediction(session, network, MODEL, CPU).run([(0, scan)])
    assert second.record["length_mm"] == first.record["length_mm"]
    known = coarse_left.commissures
    moved = Commissures.model_validate({**known.model_dump(), "source": FrameSource.CLICKS})
    session.write_commissures(replace(coarse_left, commissures=moved))
    (third,) = CohortPrediction(session, network, MODEL, CPU).run([(0, scan)])
    assert (third.state, third.record["commissures"]) == ("skipped", "clicks")
    assert third.record["length_mm"] == pytest.approx(first.record["length_mm"])
    assert third.record["uncertainty"] is None


# Sessions as inputs


def test_the_cases_of_a_session_are_predicted_in_it(session, small_case, quick):
    for subject in ("01", "02"):
        session.add(small_case(subject))
    inputs = [Stored(session.root, key) for key in keys_of(session)]
    assert [o.state for o in run(session, inputs)] == ["predicted"] * 2
    assert [o.state for o in run(session, inputs)] == ["skipped"] * 2
    assert len(quick.seen) == 2


def test_the_cases_of_another_session_come_with_their_labels(session, small_case, tmp_path, quick):
    other = Session.create(tmp_path / "other")
    case = small_case("01")
    predicted = quick_prediction(case, OTHER).add_to(case)
    other.add(predicted.with_labels(CORR, np.ones_like(case.tissue.data), corrected_by()))
    before = content_of(other.root)
    inputs = [Stored(other.root, case.key)]
    assert [o.state for o in run(session, inputs)] == ["predicted"]
    assert [o.state for o in run(session, inputs)] == ["skipped"]
    labels = session.load(case.key).labels
    assert labels[PRED].provenance.model == MODEL
    assert labels[CORR].data.all()
    assert content_of(other.root) == before


# Kept predictions


def test_a_kept_prediction_is_written_without_the_network(session, scans, tmp_path, quick):
    inputs = scans(2)
    (case,) = inputs[1].source.cases
    other = replace(case, key=CaseKey("000", "", L), tissue=replace(case.tissue, data=2 - case.tissue.data))
    inputs[0] = replace(inputs[0], source=replace(inputs[0].source, cases=(other,)))
    kept = KeptPredictions(Bundles(tmp_path / "kept", 10**9))
    kept.put(case, quick_prediction(case))
    outcomes = run(session, inputs, kept=kept)
    assert [o.state for o in outcomes] == ["predicted"] * 2
    assert quick.seen == ["sub-000_hemi-L"]
    np.testing.assert_array_equal(session.load(CaseKey("001", "", L)).labels[PRED].data, quick_prediction(case).labels)
    run(session, inputs, kept=kept, again=True)
    assert quick.seen == ["sub-000_hemi-L", "sub-000_hemi-L", "sub-001_hemi-L"]


# Stopping


def test_a_stop_ends_soon_with_what_was_finished_and_the_rest_is_done_the_next_time(session, scans, monkeypatch):
    stop, inputs, outcomes = StopToken(), scans(10), []

    def block(stem, halt):
        if stem == "sub-004_hemi-L":
            stop.set()
            while True:
                halt.check()
                time.sleep(0.01)

    network = QuickNetwork(monkeypatch, during=block)
    work = CohortPrediction(session, None, MODEL, CPU)

    def follow():
        for outcome in work.run(enumerate(inputs), stop):
            outcomes.append(outcome)  # noqa: PERF402  what came before the error is to be kept

    begin = time.monotonic()
    with pytest.raises(CancelledError):
        follow()
    assert time.monotonic() - begin < 10
    written = [key.stem for key in keys_of(session) if session.is_predicted(key, MODEL.digest)]
    assert [o.name for o in outcomes] == written
    assert len(written) <= 4
    assert not list(session.root.rglob("*.part"))
    network.during = lambda _stem, _stop: None
    states = {o.name: o.state for o in run(session, inputs)}
    assert [states[name] for name in written] == ["skipped"] * len(written)
    assert sorted(states.values()).count("predicted") == 10 - len(written)
    assert len(session.keys()) == 10


# A thousand cases


def test_a_thousand_cases_go_through_with_a_few_in_memory(session, small_case, monkeypatch):
    case, lock, alive, most = small_case("0"), threading.Lock(), set(), []

    def enter(stem, _stop):
        with lock:
            alive.add(stem)
            most.append(len(alive))

    quick = QuickNetwork(monkeypatch, during=enter)
    monkeypatch.setattr("os.fsync", lambda _handle: None)  # a thousand cases are many files
    load = Session.load
    session.add(case)
    monkeypatch.setattr(Session, "load", lambda self, key: replace(load(self, case.key), key=key))
    inputs = [Stored(session.root, CaseKey(f"{n:04}", "", L)) for n in range(1000)]
    work = CohortPrediction(session, None, MODEL, CPU)
    for outcome in work.run(enumerate(inputs)):
        assert outcome.state == "predicted", outcome.reason
        with lock:
            alive.discard(outcome.name)
    assert len(quick.seen) == len(set(quick.seen)) == 1000
    assert max(most) <= work.hands.in_flight + 1
    assert len(session.keys()) == 1001
