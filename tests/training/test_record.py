import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from napari_pcs.errors import SessionError
from napari_pcs.metrics.report import CaseReport, LabelMetrics
from napari_pcs.provenance import ModelReference
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Epoch, Preparing, Step, Tuned
from napari_pcs.training.record import RunRecord, read_split


@pytest.fixture
def record(tmp_path):
    return RunRecord(tmp_path / "runs" / "one", TuneConfig(rounds=3, seed=7))


def step(n, epoch=1, loss=None, **figures):
    return Step(
        step=n,
        epoch=epoch,
        loss=0.5 / n if loss is None else loss,
        figures=figures,
        learning_rate=1e-3,
        gradient_norm=2.0,
        samples=4,
        seconds=1.5,
    )


def epoch(n, loss=0.25):
    return Epoch(
        epoch=n,
        loss=loss,
        validation_loss=None,
        learning_rate=1e-3,
        seconds=3.0,
        samples_per_second=2.5,
        seconds_left=60.0,
        memory_mb=512.0,
        utilisation=0.75,
        power_w=None,
    )


def rows(path, delimiter=","):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


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
        rounds=1,
        best_step=1,
        stopped="budget",
        seconds_per_epoch=1.0,
        seconds_total=2.0,
        before=before,
        after=after,
        held_out_cases=(),
    )


def test_the_settings_are_there_from_the_start(record):
    assert [p.name for p in record.folder.iterdir()] == ["config.json"]
    assert TuneConfig.model_validate_json((record.folder / "config.json").read_text()) == TuneConfig(rounds=3, seed=7)


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
    record.add(step(1, dice_skeleton=0.25, dice_pcs=None))
    record.add(step(2, dice_skeleton=0.25, dice_pcs=0.125))
    found = rows(record.folder / "history.csv")
    assert list(found[0]) == [
        *("step", "epoch", "loss", "learning_rate", "gradient_norm", "seconds", "dice_skeleton", "dice_pcs")
    ]
    assert [float(row["loss"]) for row in found] == [0.5, 0.25]
    assert [row["dice_pcs"] for row in found] == ["", "0.125"]
    assert [(row["step"], row["epoch"], row["seconds"]) for row in found] == [("1", "1", "1.5"), ("2", "1", "1.5")]


def test_a_figure_that_comes_later_gets_a_column_behind_the_others(record):
    record.add(step(1, reconstruction=0.5))
    record.add(step(2, discriminator=0.125, reconstruction=0.25))
    record.add(step(3))
    found = rows(record.folder / "history.csv")
    assert list(found[0])[-2:] == ["reconstruction", "discriminator"]
    assert [(row["reconstruction"], row["discriminator"]) for row in found] == [
        ("0.5", ""),
        ("0.25", "0.125"),
        ("", ""),
    ]


def test_the_table_of_epochs_says_after_which_step_each_ended(record):
    for event in (step(1), step(2), epoch(1), step(3, 2), step(4, 2), epoch(2)):
        record.add(event)
    found = rows(record.folder / "epochs.csv")
    assert [(row["epoch"], row["step"], row["utilisation"], row["power_w"]) for row in found] == [
        ("1", "2", "0.75", ""),
        ("2", "4", "0.75", ""),
    ]


def test_figures_of_held_out_people_have_columns_of_their_own(record):
    record.add(step(1))
    record.add(epoch(1).model_copy(update={"figures": {"dice_pcs": 0.5, "dice_skeleton": None}}))
    (row,) = rows(record.folder / "epochs.csv")
    assert (row["validation_dice_pcs"], row["validation_dice_skeleton"]) == ("0.5", "")
    assert "figures" not in row


def test_a_resumed_run_has_each_step_and_each_epoch_once(record):
    for n in range(1, 6):
        record.add(step(n, (n + 1) // 2, reconstruction=float(n)))
        if n in (2, 4):
            record.add(epoch(n // 2))
    again = RunRecord.reopen(record.folder, after_step=3)
    for event in (step(4, 2, loss=7.0, reconstruction=40.0, late=1.0), epoch(2, loss=9.0), step(5, 3, loss=8.0)):
        again.add(event)
    history = rows(record.folder / "history.csv")
    assert [int(row["step"]) for row in history] == [1, 2, 3, 4, 5]
    assert [float(row["loss"]) for row in history[3:]] == [7.0, 8.0]
    assert [row["reconstruction"] for row in history] == ["1", "2", "3", "40", ""]
    assert [(row["step"], float(row["loss"])) for row in rows(record.folder / "epochs.csv")] == [
        ("2", 0.25),
        ("4", 9.0),
    ]
    assert len((record.folder / "events.jsonl").read_text().splitlines()) == 7 + 3
    assert json.loads((record.folder / "config.json").read_text())["seed"] == 7


def test_what_a_killed_process_left_half_written_is_dropped(record):
    for event in (step(1), step(2), epoch(1)):
        record.add(event)
    for name in ("events.jsonl", "history.csv", "epochs.csv"):
        with (record.folder / name).open("ab") as stream:
            stream.write(b'3,{"event": "St')
    again = RunRecord.reopen(record.folder, after_step=2)
    again.add(step(3, 2))
    lines = (record.folder / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["Step", "Step", "Epoch", "Step"]
    assert [row["step"] for row in rows(record.folder / "history.csv")] == ["1", "2", "3"]
    assert [row["epoch"] for row in rows(record.folder / "epochs.csv")] == ["1"]


def test_a_folder_without_a_run_cannot_be_gone_on_with(tmp_path):
    with pytest.raises(SessionError, match=r"found no config.json .* expected the folder of a stopped run"):
        RunRecord.reopen(tmp_path, after_step=1)


def test_a_loss_that_is_not_a_number_is_recorded_as_such(record):
    record.add(step(1, loss=float("nan")))
    assert rows(record.folder / "history.csv")[0]["loss"] == "nan"
    assert "NaN" in (record.folder / "events.jsonl").read_text()


def test_the_metrics_hold_the_held_out_cases_before_and_after(record):
    record.add(tuned((report("c", 0.25),), (report("c", 0.75),)))
    found = [row for row in rows(record.folder / "metrics.tsv", "\t") if row["label"] == "skeleton"]
    assert [(row["case"], row["dice"]) for row in found] == [("c", "0.2500"), ("c", "0.7500")]


def test_the_best_weights_replace_the_earlier_ones(record):
    for value in (1.0, 2.0):
        record.keep({"a.weight": torch.full((2, 3), value)})
    state = load_file(record.folder / "checkpoint-best.safetensors")
    assert state.keys() == {"a.weight"}
    assert torch.equal(state["a.weight"], torch.full((2, 3), 2.0))


def test_the_split_is_read_as_it_was_written(record):
    record.split(["b", "a"], ["c"])
    assert read_split(record.folder) == (("b", "a"), ("c",))


@pytest.mark.parametrize("content", [None, "", "[]", '{"train": ["a"]}', '{"train": ["a"], "held_out": null}'])
def test_a_split_that_is_missing_or_damaged_is_told(record, content):
    if content is not None:
        (record.folder / "split.json").write_text(content)
    with pytest.raises(SessionError, match=r"Run one: found no split\.json that can be read"):
        read_split(record.folder)
