import json
from pathlib import Path

import pytest
import torch
from networks import tensors_of, tiny_model, tiny_network

from napari_pcs.bids import CaseKey
from napari_pcs.data.rehearsal import TuningRecord
from napari_pcs.errors import ModelError
from napari_pcs.labels import Hemisphere
from napari_pcs.metrics.report import CaseReport, LabelMetrics
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.store import load_network
from napari_pcs.strategies import prepare
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Step
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.people import cast
from napari_pcs.training.result import Tuning, save_tuned

CASES = [
    Labelled(CaseKey(name, "", Hemisphere(side)), f"{name} {side}", "labels", partly_done=False, load=None)
    for name in "abcd"
    for side in "LR"
]
FILES = {"config.json", "digest", "lineage.json", "card.md", "tuning.json", "weights.safetensors"}


def step(number, samples=2, seconds=0.5):
    return Step(
        step=number,
        epoch=1,
        loss=1.0,
        figures={},
        learning_rate=1e-3,
        gradient_norm=1.0,
        samples=samples,
        seconds=seconds,
    )


def report(case, dice):
    figures = LabelMetrics(outcome="compared", dice=dice)
    return CaseReport(
        case=case,
        labels={"skeleton": figures, "pcs": figures},
        length_mm=1.0,
        reference_length_mm=1.0,
        length_error_mm=0.0,
        pcs_class="absent",
        reference_class="absent",
    )


@pytest.fixture
def base(tmp_path):
    return tiny_model(tmp_path / "models", "base")


@pytest.fixture
def finish(tmp_path, base):
    """End a tuning with a network whose trained weights are all a little larger."""

    def finish(strategy="top", stopped="complete", steps=7, **options):
        config = TuneConfig(strategy=strategy, round_steps=3, patches=2, views=1)
        network = tiny_network()
        count = prepare(network, strategy, lora=config.lora, seed=0)
        with torch.no_grad():
            for p in network.parameters():
                if p.requires_grad:
                    p += 1e-3
        roles = cast(CASES, base, config)
        told = [report(case.name, 0.5) for case in roles.held_out], [report(case.name, 0.75) for case in roles.held_out]
        before, after = map(tuple, told)
        tuning = Tuning(
            base, config, roles, count, stopped, [step(n + 1) for n in range(steps)], 6, before, after, **options
        )
        target = tmp_path / "models" / "mine"
        return network, save_tuned(network, target, tmp_path / "run", tuning, 12.5), tuning

    return finish


def test_a_model_folder_holds_weights_settings_card_lineage_and_whom_it_has_learnt_from(finish):
    network, told, tuning = finish()
    model = ModelFolder(Path(told.path))
    assert {path.name for path in model.path.iterdir()} == FILES
    assert TuningRecord.read(model.path) == tuning.roles.record
    assert set(json.loads((model.path / "tuning.json").read_text())["trained"]) == {
        case.name for case in tuning.roles.training
    }
    saved = tensors_of(load_network(model))
    assert all(torch.equal(saved[name], tensor) for name, tensor in tensors_of(network).items())


def test_what_is_told_is_what_was_counted(finish):
    network, told, tuning = finish()
    assert told.model == ModelFolder(Path(told.path)).reference
    assert told.trainable_parameters == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert told.total_parameters == sum(p.numel() for p in network.parameters())
    # 7 steps of 2 patches and half a second; a pass is 2 patches of each training case.
    patches = 2 * len(tuning.roles.training)
    assert told.epochs == pytest.approx(14 / patches)
    assert told.seconds_per_epoch == pytest.approx(3.5 * patches / 14)
    assert (told.rounds, told.best_step, told.stopped, told.seconds_total) == (2, 6, "complete", 12.5)
    assert told.held_out_cases == tuple(case.name for case in tuning.roles.held_out)
    assert [r.labels["pcs"].dice for r in told.before + told.after] == [0.5, 0.5, 0.75, 0.75]


@pytest.mark.parametrize(
    ("stopped", "said"),
    [
        ("complete", "2 (all that were asked for)"),
        ("early", "2 (stopped early"),
        ("budget", "2 (the time was up)"),
        ("cancelled", "2 (cancelled by the user"),
    ],
)
def test_the_card_says_from_what_on_whom_and_why_it_ended(finish, base, stopped, said):
    _, told, tuning = finish(stopped=stopped)
    card = ModelFolder(Path(told.path)).card
    assert card.startswith("# mine\n")
    for part in (said, f"**base** (weights {base.digest})", "weights of step 6; 12 s in all"):
        assert part in card
    assert all(case.name in card for case in tuning.roles.training)
    assert "| skeleton | dice | 0.500 | 0.750 |" in card
    assert told.cancelled == (stopped == "cancelled")


def test_the_lineage_gains_a_stage_that_names_what_was_trained_on_how_many(finish):
    _, told, tuning = finish("decoder")
    (stage,) = ModelFolder(Path(told.path)).lineage.stages
    assert (stage.name, stage.objective) == ("mine", "tune-decoder")
    assert stage.data == f"{len(tuning.roles.training)} corrected hemispheres of 3 people"
    assert stage.parts == ("decoder", "heads")
    assert stage.epochs == told.epochs


def test_of_low_rank_pairs_an_adapter_is_saved_with_the_same_record(finish, base):
    network, told, tuning = finish("lora")
    model = ModelFolder(Path(told.path))
    assert model.is_adapter
    assert model.base == base.reference
    assert TuningRecord.read(model.path) == tuning.roles.record
    assert not (model.path / "weights.safetensors").exists()
    image = torch.rand(1, 4, 64, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, expected = load_network(model)(image), network.eval()(image)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strategy", ["top", "lora"])
def test_a_folder_that_is_there_is_left_as_it_was(finish, tmp_path, strategy):
    target = tmp_path / "models" / "mine"
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="Model mine: found a"):
        finish(strategy)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
