import csv
import json
import shutil

import numpy as np
import pytest
import torch
from cohorts import damage, write_cohort
from pretraining import epochs_of, first_batch, losses_of, plan, recorded_losses, stage, start, weights_of
from safetensors.torch import load_file
from skimage.io import imsave

from napari_pcs import files
from napari_pcs.errors import CancelledError, InputError, ModelError, SessionError
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.networks import build_network
from napari_pcs.models.resnet import ResNetConfig
from napari_pcs.models.store import load_network, save_network
from napari_pcs.objectives import find_objective
from napari_pcs.stop import StopToken
from napari_pcs.training.events import Epoch, Preparing, Pretrained, Saved, Skipped, Started, Step, Stopped
from napari_pcs.training.plan import read_plan
from napari_pcs.training.pretrain import pretrain
from napari_pcs.training.processes import Processes
from napari_pcs.training.step import Passes

SHORT = {"epochs": 1, "batch_size": 2, "micro_batch": 2, "seed": 4}


@pytest.fixture(scope="module")
def chain(maps, tmp_path_factory):
    """Three stages, each from the model of the one before: reconstruction, SimCLR, reconstruction."""
    root = tmp_path_factory.mktemp("chain")
    events, init = [], None
    for n, objective in enumerate(("reconstruction", "simclr", "reconstruction")):
        config = stage(objective, loop=SHORT, picture_epochs=1)
        events.append(list(start(root, maps, config, name=f"stage-{n}", init=init, run=f"run-{n}")))
        init = root / "models" / f"stage-{n}"
    return root, events


@pytest.fixture(scope="module")
def whole(maps, tmp_path_factory):
    """An uninterrupted run of two epochs of the cheap objective, with those who judge."""
    root = tmp_path_factory.mktemp("whole")
    return root, list(start(root, maps))


def stopped(root, data, after, config=None, **options):
    """Run until the step `after` is over, then cancel; return what was told."""
    stop, events = StopToken(), []

    def follow():
        for event in start(root, data, config, stop=stop, **options):
            events.append(event)
            if isinstance(event, Step) and event.step == after:
                stop.set()

    if after == 0:
        stop.set()
    with pytest.raises(CancelledError) as error:
        follow()
    return events, str(error.value)


# A whole stage


def test_events_come_in_order_from_started_to_pretrained(chain):
    _, (events, *_) = chain
    kinds = [type(e) for e in events if not isinstance(e, Preparing)]
    assert kinds[0] is Started
    assert kinds[-1] is Pretrained
    assert [k for k in kinds if k in {Started, Step, Epoch, Pretrained}] == [Started, Step, Step, Epoch, Pretrained]
    assert [e.step for e in events if isinstance(e, Step)] == [1, 2]
    started = next(e for e in events if isinstance(e, Started))
    assert (started.what, started.steps, started.epochs, started.steps_done) == ("reconstruction", 2, 1, 0)
    assert len(started.training) == 4
    assert len(started.held_out) == 1


def test_the_files_of_a_run_tell_the_whole_story(chain, maps):
    root, (events, *_) = chain
    run = root / "run-0"
    assert read_plan(run) == plan(root, maps, stage("reconstruction", loop=SHORT, picture_epochs=1), name="stage-0")
    started = next(e for e in events if isinstance(e, Started))
    split = json.loads((run / "split.json").read_text())
    assert split == {"train": list(started.training), "held_out": list(started.held_out)}
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [line.pop("event") for line in lines] == [type(e).__name__ for e in events]
    assert lines == [e.model_dump(mode="json") for e in events]
    with (run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(r["loss"]) for r in rows] == pytest.approx(losses_of(events), rel=1e-5)
    assert {"ssim", "ms_ssim", "l1"} <= set(rows[0])
    assert [int(r["step"]) for r in csv.DictReader((run / "epochs.csv").open())] == [2]
    saved = [(e.step, e.best, e.path) for e in events if isinstance(e, Saved)]
    assert saved == [
        (2, True, str(run / "checkpoint-best.safetensors")),
        (2, False, str(run / "checkpoint-last.safetensors")),
    ]
    assert sorted(p.name for p in (run / "pictures").iterdir()) == ["epoch-00001.npy", "epoch-00001.png"]
    assert list((run / "tensorboard").iterdir())


def test_the_model_loads_and_is_the_best_of_the_run(chain):
    root, (events, *_) = chain
    model = ModelFolder(root / "models" / "stage-0")
    kept = load_file(root / "run-0" / "checkpoint-best.safetensors")
    loaded = weights_of(load_network(model))
    assert loaded.keys() == kept.keys()
    assert all(torch.equal(loaded[name], kept[name].to(loaded[name].dtype)) for name in kept)
    assert events[-1].model == model.reference
    assert not model.has_trained_heads
    assert "cannot\npredict before it is tuned" in model.card


def test_heads_are_bit_identical_to_the_first_ones_and_trained_parts_have_moved(chain):
    root, _ = chain
    torch.manual_seed(SHORT["seed"])
    network = build_network(stage("reconstruction").network)
    before = weights_of(network)
    names = [load_network(ModelFolder(root / "models" / f"stage-{n}")) for n in range(3)]
    for old, new, trained in zip(
        [before, *map(weights_of, names[:-1])],
        map(weights_of, names),
        (("stem", "encoder", "decoder"), ("stem", "encoder"), ("stem", "encoder", "decoder")),
        strict=True,
    ):
        for part in ("stem", "encoder", "decoder", "heads"):
            of_part = [f"{m}.{p}" for m, module in network.modules_of(part) for p, _ in module.named_parameters()]
            moved = [name for name in of_part if not torch.equal(old[name], new[name])]
            assert bool(moved) is (part in trained), part
            if part in trained:
                assert len(moved) > 0.9 * len(of_part)


# Chains of stages


def test_a_chain_keeps_all_its_stages_with_the_digests_of_their_weights(chain):
    root, events = chain
    models = [ModelFolder(root / "models" / f"stage-{n}") for n in range(3)]
    stages = models[-1].lineage.stages
    assert [s.name for s in stages] == ["stage-0", "stage-1", "stage-2"]
    assert [s.objective for s in stages] == ["reconstruction", "simclr", "reconstruction"]
    assert [s.digest for s in stages] == [m.digest for m in models]
    assert [s.parts for s in stages][1] == ("stem", "encoder")
    assert [s.epochs for s in stages] == [1, 1, 1]
    assert all("5 of 5 people" in s.data for s in stages)
    for n, model in enumerate(models):
        assert events[n][-1].lineage == model.lineage.stages == stages[: n + 1]
        assert [model.digest in model.card, model.card.count("| stage-")] == [True, n + 1]


@pytest.mark.parametrize("n", [1, 2])
def test_a_stage_begins_with_the_weights_of_the_model_that_it_is_given(chain, maps, n):
    root, events = chain
    name = ("reconstruction", "simclr", "reconstruction")[n]
    config = stage(name, loop=SHORT, picture_epochs=1)
    batch = first_batch(maps, config)

    def loss_with(network):
        """Loss of the first batch; whatever an objective adds to the network is drawn after it."""
        torch.manual_seed(SHORT["seed"])
        found = network()
        objective = find_objective(name)(found, config.settings).train()
        outcome = objective(batch)
        loss = outcome.loss if outcome.embedding is None else objective.compare(outcome.embedding).loss
        return float(loss.detach())

    loaded = loss_with(lambda: load_network(ModelFolder(root / "models" / f"stage-{n - 1}")))
    assert losses_of(events[n])[0] == loaded
    assert losses_of(events[n])[0] != pytest.approx(loss_with(lambda: build_network(config.network)), rel=1e-5)


def test_an_objective_that_needs_a_decoder_refuses_a_model_without_one(maps, tmp_path):
    model = save_network(build_network(ResNetConfig()), tmp_path / "resnet", "# resnet\n")
    with pytest.raises(ModelError, match=r"found the network resnet18 \(2-D\), expected a 3-D Segmenter"):
        list(start(tmp_path, maps, stage("reconstruction"), init=model.path))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "models").exists()


# Going on after a stop


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_resumed_run_has_the_losses_and_weights_of_one_that_was_never_stopped(whole, maps, tmp_path, after):
    root, events = whole
    before, message = stopped(tmp_path, maps, after)
    assert f"Stopped after step {after} of 4. Go on with: napari-pcs pretrain --resume {tmp_path / 'run'}" in message
    assert before[-1] == Stopped(step=after, steps=4, run=str(tmp_path / "run"))
    torch.rand(5)
    later = list(start(tmp_path, maps, resume=True))
    assert losses_of(before) + losses_of(later) == losses_of(events)
    assert recorded_losses(tmp_path / "run") == losses_of(events)
    tables = [[row[:5] for row in csv.reader((r / "run" / "history.csv").open())] for r in (root, tmp_path)]
    assert tables[0] == tables[1]
    weights = [weights_of(load_network(ModelFolder(r / "models" / "mine"))) for r in (root, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    judged = [[e.validation_loss for e in epochs_of(told)] for told in (events, [*before, *later])]
    assert judged[0] == judged[1]
    assert next(e for e in later if isinstance(e, Started)).steps_done == after


def test_a_run_that_was_stopped_while_it_validated_is_ended_as_if_it_had_not_been(whole, maps, tmp_path, monkeypatch):
    """Then its epoch has no step left, no batch to make a picture of and no time to be measured."""
    stop, events = StopToken(), []
    judge = Passes.judge

    def stopping(*args):
        stop.set()
        return judge(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Passes, "judge", stopping)
        with pytest.raises(CancelledError, match="Stopped after step 2 of 4"):
            events += start(tmp_path, maps, stop=stop)
    later = list(start(tmp_path, maps, resume=True))
    assert recorded_losses(tmp_path / "run") == losses_of(whole[1])
    assert [e.validation_loss for e in epochs_of(later)] == [e.validation_loss for e in epochs_of(whole[1])]
    assert all(e.seconds > 0 for e in epochs_of(later))


def test_another_number_of_processes_cannot_go_on_with_a_run(maps, tmp_path):
    stopped(tmp_path, maps, 1)
    two = Processes("cpu")
    two.count = 2
    with pytest.raises(ModelError, match="found 2 processes, expected 1 as before"):
        list(pretrain(tmp_path / "run", plan(tmp_path, maps), two, resume=True))


def test_other_files_than_before_are_not_gone_on_with(tmp_path):
    folder = write_cohort(tmp_path / "maps", 4)
    stopped(tmp_path, folder, 1)
    write_cohort(folder, 5)
    with pytest.raises(ModelError, match=r"found other files in .* than when the run was begun"):
        list(start(tmp_path, folder, resume=True))


def test_a_finished_run_is_not_gone_on_with(maps, tmp_path):
    list(start(tmp_path, maps))
    content = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ModelError, match=r"found it finished, expected .* --init mine"):
        list(start(tmp_path, maps, resume=True))
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == content


def test_a_run_that_ended_before_its_model_was_written_only_writes_it(whole, maps, tmp_path, monkeypatch):
    def full(*_args, **_options):
        msg = "full"
        raise SessionError(msg)

    with monkeypatch.context() as patch:
        patch.setattr("napari_pcs.training.pretrain.save_network", full)
        with pytest.raises(SessionError):
            list(start(tmp_path, maps))
    events = list(start(tmp_path, maps, resume=True))
    assert losses_of(events) == []
    assert events[-1].model.digest == whole[1][-1].model.digest
    timings = {"seconds_per_epoch", "seconds_total", "path", "run"}
    assert events[-1].model_dump(exclude=timings) == whole[1][-1].model_dump(exclude=timings)


def test_a_name_that_was_taken_during_a_run_does_not_cost_the_run(maps, tmp_path):
    events = start(tmp_path, maps)
    for event in events:
        if isinstance(event, Epoch):
            (tmp_path / "models" / "mine").mkdir(parents=True, exist_ok=True)
        last = event
    assert last.model.name == "mine-2"
    assert ModelFolder(tmp_path / "models" / "mine-2").lineage.stages[-1].name == "mine-2"
    assert load_network(ModelFolder(tmp_path / "models" / "mine-2"))


def test_no_better_validation_loss_ends_a_run_early(maps, tmp_path):
    config = stage(loop={"epochs": 30, "patience": 2, "optimiser": {"learning_rate": 5.0}, "clip_norm": None})
    events = list(start(tmp_path, maps, config))
    result, judged = events[-1], [e.validation_loss for e in epochs_of(events)]
    assert result.stopped == "early"
    assert len(judged) < 30
    assert result.best_epoch == 1 + int(np.argmin(judged)) == len(judged) - 2
    assert result.epochs == len(judged)
    assert "stopped early" in ModelFolder(tmp_path / "models" / "mine").card


# Data that are not as they should be


def test_an_unreadable_file_is_skipped_named_and_counted(tmp_path):
    folder = write_cohort(tmp_path / "maps", 5)
    damage(folder, 1)
    events = list(start(tmp_path, folder, stage(unreadable_share=0.3)))
    skipped = [e for e in events if isinstance(e, Skipped)]
    assert [(e.name, e.count, e.of) for e in skipped] == [("sub-01_hemi-L", 1, 5)]
    assert skipped[0].reason
    assert events[-1].skipped == ("sub-01_hemi-L",)
    assert len(losses_of(events)) == 4
    assert "could not be read: 1" in ModelFolder(tmp_path / "models" / "mine").card


def test_what_was_unreadable_is_told_once_also_over_a_stop(tmp_path):
    folder = write_cohort(tmp_path / "maps", 5)
    damage(folder, 1)
    config = stage(unreadable_share=0.3)
    before, _ = stopped(tmp_path, folder, 2, config)
    events = [*before, *start(tmp_path, folder, config, resume=True)]
    assert len([e for e in events if isinstance(e, Skipped)]) == 1
    assert events[-1].skipped == ("sub-01_hemi-L",)


def test_too_many_unreadable_files_end_a_run(tmp_path):
    folder = write_cohort(tmp_path / "maps", 5)
    damage(folder, 0, 1, 3)
    with pytest.raises(InputError, match=r"found 2 of 5 files that could not be read \(first: sub-0"):
        list(start(tmp_path, folder, stage(unreadable_share=0.3)))
    assert not (tmp_path / "models").exists()


def test_nobody_left_to_judge_ends_a_run_with_a_sentence(tmp_path):
    folder = write_cohort(tmp_path / "maps", 5)
    names = json.loads(split_of(tmp_path, folder))["held_out"]
    damage(folder, int(names[0][4:6]))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(InputError, match="found no file left on one side of the split that could be read"):
        list(start(tmp_path, folder, stage(unreadable_share=0.5)))


def split_of(root, data):
    stopped(root, data, 0)
    return (root / "run" / "split.json").read_text()


def test_an_empty_folder_has_nothing_to_learn_from(tmp_path):
    (tmp_path / "maps").mkdir()
    with pytest.raises(InputError, match="found a folder without tissue maps"):
        list(start(tmp_path, tmp_path / "maps"))
    assert not (tmp_path / "run").exists()


def test_one_hemisphere_is_learnt_from_and_nobody_judges(tmp_path):
    events = list(start(tmp_path, write_cohort(tmp_path / "maps", 1)))
    assert any("1 person: nothing is held out" in e.sentence for e in events if isinstance(e, Preparing))
    assert [e.validation_loss for e in epochs_of(events)] == [None, None]
    assert len(losses_of(events)) == 2
    assert json.loads((tmp_path / "run" / "split.json").read_text()) == {"train": ["sub-00_hemi-L"], "held_out": []}


def test_two_hemispheres_of_a_person_are_on_one_side(tmp_path):
    split = json.loads(split_of(tmp_path, write_cohort(tmp_path / "maps", 3, "LR")))
    people = [{name[:6] for name in names} for names in split.values()]
    assert people[0].isdisjoint(people[1])
    assert [len(names) for names in split.values()] == [4, 2]


# Settings that do not fit


def test_one_sample_cannot_be_compared(maps, tmp_path):
    config = stage("simclr", loop={"batch_size": 1, "micro_batch": 1})
    with pytest.raises(ModelError, match="Objective simclr: found a batch of 1, expected at least 2"):
        list(start(tmp_path, maps, config))


@pytest.mark.parametrize("patch", [(64, 48, 32), (32, 32, 32), (64, 64)])
def test_patches_that_do_not_fit_the_network_are_refused(maps, tmp_path, patch):
    shown = "x".join(map(str, patch))
    with pytest.raises(ModelError, match=rf"found patches of {shown} for the network swin_unetr, expected 3 sides"):
        list(start(tmp_path, maps, stage(patch=patch)))
    assert not (tmp_path / "run").exists()


def test_a_model_is_never_overwritten(maps, tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    with pytest.raises(ModelError, match="Model mine: found a model of that name already"):
        list(start(tmp_path, maps))
    assert not (tmp_path / "run").exists()


# A disk that is full


def test_a_full_disk_ends_a_run_and_its_last_checkpoint_can_be_gone_on_with(whole, maps, tmp_path, monkeypatch):
    stopped(tmp_path, maps, 1)
    path = tmp_path / "run" / "checkpoint-last.safetensors"
    content = path.read_bytes()
    fsync, calls = files.os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        return fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(SessionError, match="the disk is full"):
            list(start(tmp_path, maps, every_step(), resume=True))
    assert not (tmp_path / "models").exists()
    assert not list(tmp_path.rglob("*.part"))
    found = path.read_bytes()
    assert found != content, "a later checkpoint was written before the disk was full"
    list(start(tmp_path, maps, resume=True))
    assert recorded_losses(tmp_path / "run") == losses_of(whole[1])


def every_step():
    return stage(loop={"checkpoint_minutes": 1e-9})


def test_a_checkpoint_is_written_whenever_the_last_one_is_old(maps, tmp_path):
    events = list(start(tmp_path, maps, every_step()))
    assert [e.step for e in events if isinstance(e, Saved) and not e.best] == [1, 2, 3, 4, 4]


# Images


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for n in range(6):
        noise = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        imsave(tmp_path / "images" / f"sub-{n}.png", noise, check_contrast=False)
    return tmp_path / "images"


def test_images_train_a_network_of_two_dimensions(images, tmp_path):
    config = stage("simclr", 2, patch=(32, 32), loop={"epochs": 1, "batch_size": 4, "micro_batch": 4})
    events = list(start(tmp_path, images, config))
    network = load_network(ModelFolder(tmp_path / "models" / "mine"))
    assert network.config.architecture == "resnet18"
    assert events[-1].lineage[-1].data.startswith("images: 6 of 6 people")
    assert len(losses_of(events)) == 2
