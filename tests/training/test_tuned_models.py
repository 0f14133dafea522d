"""Tuned models from outside: files on disk against the base's, weight by weight, for each network and strategy."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from denoisers import tiny_denoiser
from networks import CPU, look_through_a_small_box, tiny_model, tiny_network
from safetensors.torch import load_file

from napari_pcs.bids import CaseKey
from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.data.rehearsal import TuningRecord
from napari_pcs.labels import Hemisphere
from napari_pcs.models.adapters import load_unmerged, merge_adapter
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.models.store import load_network, load_segmenter, save_network
from napari_pcs.predict import predict
from napari_pcs.strategies import STRATEGIES
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Step, Tuned
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.tune import tune

CONFIG = TuneConfig(rounds=1, round_steps=1, patch=64, patches=1, views=1, batch_size=1, learning_rate=1e-3, seed=3)
SWIN_DECODER = tuple(f"backbone.decoder{n}." for n in (1, 2, 3, 4))
SWIN_HEADS = ("backbone.out.", "class_head.")
DENOISER_HEADS = ("segmentation_head.", "class_head.")
NAMED = {
    ("swin", "top"): (*SWIN_DECODER, *SWIN_HEADS),
    ("swin", "decoder"): (*SWIN_DECODER, "backbone.decoder5.", *SWIN_HEADS),
    ("denoiser", "top"): ("backbone.out.", "backbone.up_blocks.2.", *DENOISER_HEADS),
    ("denoiser", "decoder"): ("backbone.out.", "backbone.up_blocks.", *DENOISER_HEADS),
}
PAIRED = {
    "swin": ("attn.qkv.weight", "attn.proj.weight", "mlp.linear1.weight", "mlp.linear2.weight"),
    "denoiser": ("to_q.weight", "to_k.weight", "to_v.weight", "out_proj.weight", "ff.linear1.weight", "linear2.weight"),
}
ENCODER = {"swin": "backbone.swinViT.layers", "denoiser": ("backbone.down_blocks.", "backbone.middle_block.")}
BUILD = {"swin": tiny_network, "denoiser": lambda: tiny_denoiser(position=True)}


@pytest.fixture(scope="module")
def cases():
    return [
        replace(phantom(pcs_length_mm=60, seed=n), key=CaseKey(name, "", Hemisphere.LEFT))
        for n, name in enumerate(("ada", "bob"))
    ]


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


def tuned_from(base, target, cases, config):
    """Tune on one person, with nobody to judge; returns the new model and what was told of it."""
    root = target.parent
    labelled = [Labelled.of(case) for case in cases]
    bundles = Bundles(root / "kept", 2**30)
    *events, last = tune(labelled, base, target, root / f"run-{target.name}", config, CPU, bundles=bundles)
    assert isinstance(last, Tuned)
    assert sum(isinstance(event, Step) for event in events) == config.rounds * config.round_steps
    return ModelFolder(target), last


def files_of(model):
    return {p.relative_to(model.path).as_posix(): p.read_bytes() for p in model.path.rglob("*") if p.is_file()}


def is_named(kind, strategy, name):
    if strategy in {"full", "scratch"}:
        return True
    if strategy == "lora":
        return name.startswith(SWIN_HEADS if kind == "swin" else DENOISER_HEADS) or (
            name.startswith(ENCODER[kind]) and name.endswith(PAIRED[kind])
        )
    return name.startswith(NAMED[kind, strategy])


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_the_tuned_folder_exactly_the_named_weights_differ_from_the_bases(kind, strategy, cases, tmp_path):
    base = save_network(BUILD[kind](), tmp_path / "base", "# base\n")
    before = files_of(base)
    config = CONFIG.model_copy(update={"strategy": strategy, "lora": LoraConfig(rank=2)})
    model, told = tuned_from(base, tmp_path / "mine", cases[:1], config)
    assert files_of(base) == before
    old = load_file(base.path / "weights.safetensors")
    assert model.is_adapter == (strategy == "lora")
    assert model.base == (base.reference if strategy == "lora" else None)
    new = load_network(model).state_dict()
    if strategy != "lora":
        stored = load_file(model.path / "weights.safetensors")
        assert all(torch.equal(stored[name], new[name]) for name in old)
    assert old.keys() == new.keys()
    differing = {name for name in old if not torch.equal(old[name], new[name])}
    weights = {name for name, _ in load_network(base).named_parameters()}
    assert differing == {name for name in weights if is_named(kind, strategy, name)}
    assert told.total_parameters == sum(old[name].numel() for name in weights)
    if strategy == "lora":
        written = load_file(model.path / "adapter" / "adapter_model.safetensors")
        assert told.trainable_parameters == sum(tensor.numel() for tensor in written.values())
        assert not (model.path / "weights.safetensors").exists()
    else:
        assert told.trainable_parameters == sum(old[name].numel() for name in differing)
    assert told.model == model.reference
    assert TuningRecord.read(model.path) is not None


LORA = CONFIG.model_copy(update={"strategy": "lora", "rounds": 2, "lora": LoraConfig(rank=2)})


@pytest.fixture(scope="module")
def chain(cases, tmp_path_factory):
    """A base, an adapter of it, and an adapter of the adapter."""
    root = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        look_through_a_small_box(patch)
        base = tiny_model(root, "base")
        first, _ = tuned_from(base, root / "first", cases, LORA)
        second, _ = tuned_from(first, root / "second", cases, LORA)
    return base, first, second


def test_an_adapter_predicts_what_the_network_that_was_tuned_does(chain, cases):
    _, first, _ = chain
    merged = predict(cases[0], load_segmenter(first), first.reference, CPU)
    beside = predict(cases[0], load_unmerged(first), first.reference, CPU)
    np.testing.assert_allclose(merged.probabilities, beside.probabilities, rtol=0, atol=1e-5)
    assert merged.model == first.reference
    assert np.ptp(merged.probabilities) > 0


def test_an_adapter_that_is_tuned_becomes_the_base_of_the_next(chain):
    base, first, second = chain
    assert (first.base, second.base) == (base.reference, first.reference)
    one, two, three = (load_network(model).state_dict() for model in chain)
    named = {name for name in one if is_named("swin", "lora", name)}
    assert {name for name in one if not torch.equal(one[name], two[name])} == named
    assert {name for name in one if not torch.equal(two[name], three[name])} == named
    assert [stage.objective for stage in second.lineage.stages] == ["tune-lora", "tune-lora"]


def test_a_chain_of_adapters_is_merged_into_one_model_that_needs_none_of_them(chain, tmp_path):
    _, _, second = chain
    expected = load_network(second).state_dict()
    whole = merge_adapter(second, tmp_path / "elsewhere" / "whole", "# whole\n")
    found = load_network(whole).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_all_weights_of_an_adapter_are_tuned_into_a_model_of_its_own(chain, cases, tmp_path):
    root = tmp_path / "models"
    shutil.copytree(chain[0].path.parent, root)
    config = CONFIG.model_copy(update={"strategy": "top"})
    model, _ = tuned_from(ModelFolder(root / "first"), root / "whole", cases, config)
    assert not model.is_adapter
    old, new = (load_network(m).state_dict() for m in (ModelFolder(root / "first"), model))
    assert {name for name in old if not torch.equal(old[name], new[name])} == {
        name for name in old if is_named("swin", "top", name)
    }
    for name in ("base", "first", "second"):
        shutil.rmtree(root / name)
    assert load_segmenter(model)
