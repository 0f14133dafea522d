import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from napari_pcs.metrics.report import CaseReport, LabelMetrics
from napari_pcs.provenance import ModelReference
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Preparing, Step, Tuned
from napari_pcs.training.record import RunRecord


@pytest.fixture
def record(tmp_path):
    return RunRecord(tmp_path / "runs" / "one", TuneConfig(epochs=3, seed=7))


def step(n, **values):
    return Step(
        **{"step": n, "epoch": 1, "loss": 0.5 / n, "dice_skeleton": 0.25, "dice_pcs": None, "seconds": 1.5, **values}
    )


def report(case, dice):
    metrics = LabelMetrics(outcome="compared", dice=dice)
    return CaseReport(
        case=case,
        labels={"skeleton": metrics, "pcs": LabelMetrics(outcome="both_empty")},
        length_mm=0.0,
        reference_length_mm=0.0,
        length_error_mm=0.0,
        pcs_class="absent",
        reference_class="absent",
    )


def tuned(before=(), after=()):
    return Tuned(
        model=ModelReference(name="mine", digest="ab"),
        path="p",
        run="r",
        strategy="top",
        trainable_parameters=1,
        total_parameters=2,
        epochs=1,
        best_step=1,
        cancelled=False,
        seconds_per_epoch=1.0,
        seconds_total=2.0,
        before=before,
        after=after,
        held_out_cases=(),
    )


def test_the_settings_are_there_from_the_start(record):
    assert [p.name for p in record.folder.iterdir()] == ["config.json"]
    assert TuneConfig.model_validate_json((record.folder / "config.json").read_text()) == TuneConfig(epochs=3, seed=7)


def test_the_split_says_who_trains_and_who_judges(record):
    record.split(["a", "b"], ("c",))
    assert json.loads((record.folder / "split.json").read_text()) == {"train": ["a", "b"], "held_out": ["c"]}


def test_every_event_is_on_disk_as_soon_as_it_is_added(record):
    events = [Preparing(sentence="Reading 2 corrected cases, très bien"), step(1), step(2)]
    for n, event in enumerate(events, 1):
        record.add(event)
        lines = (record.folder / "events.jsonl").read_text().splitlines()
        assert len(lines) == n
        found = json.loads(lines[-1])
        assert found.pop("event") == type(event).__name__
        assert type(event).model_validate(found) == event


def test_the_history_has_a_row_for_each_step_and_nothing_where_a_figure_is_missing(record):
    record.add(Preparing(sentence="first"))
    assert not (record.folder / "history.csv").exists()
    record.add(step(1))
    record.add(step(2, dice_pcs=0.125))
    with (record.folder / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["loss"]) for row in rows] == [0.5, 0.25]
    assert [row["dice_pcs"] for row in rows] == ["", "0.125"]
    assert [(row["step"], row["epoch"], row["seconds"]) for row in rows] == [("1", "1", "1.5"), ("2", "1", "1.5")]


def test_the_metrics_hold_the_held_out_cases_before_and_after(record):
    record.add(tuned((report("c", 0.25),), (report("c", 0.75),)))
    with (record.folder / "metrics.tsv").open() as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["label"] == "skeleton"]
    assert [(row["case"], row["dice"]) for row in rows] == [("c", "0.2500"), ("c", "0.7500")]


def test_the_best_weights_replace_the_earlier_ones(record):
    for value in (1.0, 2.0):
        record.keep({"a.weight": torch.full((2, 3), value)})
    state = load_file(record.folder / "checkpoint-best.safetensors")
    assert state.keys() == {"a.weight"}
    assert torch.equal(state["a.weight"], torch.full((2, 3), 2.0))
