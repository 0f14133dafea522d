import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from adapted import VARIANTS, adapted, adapter_model, close, differ, image_for, outputs
from networks import tensors_of, tiny_model, tiny_network
from safetensors.torch import load_file, save_file

from napari_pcs import files
from napari_pcs.errors import ModelError, SessionError
from napari_pcs.models.adapters import Adapters, load_unmerged, merge_adapter, save_adapter
from napari_pcs.models.bases import find_base, require_in_reach
from napari_pcs.models.folders import ModelFolder, find_model, list_models
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.models.store import load_network, load_segmenter, save_network

FILES = [
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "base.json",
    "card.md",
    "config.json",
    "digest",
    "lineage.json",
]
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of an adapter beside its base, and the network as it was; not to be changed."""
    return adapter_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def model(saved, tmp_path):
    """Copy of them that may be damaged."""
    shutil.copytree(saved[0].path.parent, tmp_path / "models")
    return ModelFolder(tmp_path / "models" / saved[0].name)


def record_digest(model):
    """Record the digest of whatever the folder holds now, as an honest but mistaken tool would."""
    base = json.loads((model.path / "base.json").read_text())["digest"].encode()
    parts = [(model.path / name).read_bytes() for name in ("adapter/adapter_config.json", WEIGHTS)]
    (model.path / "digest").write_text(hashlib.sha256(b"\n".join([base, *parts])).hexdigest())


def rewrite(model, change):
    weights = load_file(model.path / WEIGHTS)
    change(weights)
    save_file(weights, model.path / WEIGHTS)
    record_digest(model)


# Saved and loaded


def test_a_folder_holds_the_adapter_in_pefts_files_and_says_what_it_changes(saved):
    model, _ = saved
    assert sorted(p.relative_to(model.path).as_posix() for p in model.path.rglob("*") if p.is_file()) == FILES
    base = ModelFolder(model.path.parent / "base")
    assert json.loads((model.path / "base.json").read_text()) == {"name": "base", "digest": base.digest}
    assert model.is_adapter
    assert model.base == base.reference
    assert not base.is_adapter
    assert base.base is None
    assert (model.has_trained_heads, model.summary) == (True, "Tuned from base.")
    assert model.reference.digest == model.digest == model.lineage.stages[-1].digest
    assert model.card.count("| mine | tune-lora | 4 cases | 5 | encoder, heads |") == 1
    settings = json.loads((model.path / "adapter/adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["r"], settings["lora_alpha"]) == ("base", 8, 16)
    assert settings["modules_to_save"] == ["backbone.out", "class_head"]


def test_an_adapter_of_a_small_network_takes_200_kb(saved):
    assert sum(p.stat().st_size for p in saved[0].path.rglob("*")) < 250_000


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_an_adapter_comes_back_bit_for_bit_and_merged_within_1e_5(tmp_path, settings):
    model, network = adapter_model(tmp_path, settings=settings)
    expected = outputs(network)
    assert differ(expected, outputs(load_unmerged(model))) == 0
    merged = load_network(model)
    close(expected, outputs(merged))
    assert list(merged.state_dict()) == list(tiny_network().state_dict())
    assert not merged.training
    assert all(p.requires_grad for p in merged.parameters())
    again, first = load_network(model).state_dict(), merged.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


ANOTHER_PROCESS = """
import sys, torch
from pathlib import Path
from napari_pcs.models.adapters import load_unmerged
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.store import load_network

model, folder = ModelFolder(Path(sys.argv[1])), Path(sys.argv[2])
load_network(model)
had_peft = "peft" in sys.modules
torch.set_num_threads(int(sys.argv[3]))
network = load_unmerged(model)
logits = network(torch.load(folder / "image.pt")["image"]).logits.detach()
torch.save({"logits": logits, "had_peft": torch.tensor(had_peft)}, folder / "out.pt")
"""


@pytest.fixture(scope="module")
def elsewhere(saved, tmp_path_factory):
    """What another process makes of the adapter."""
    (model, network), folder = saved, tmp_path_factory.mktemp("elsewhere")
    torch.save({"image": image_for(network)}, folder / "image.pt")
    arguments = [str(model.path), str(folder), str(torch.get_num_threads())]
    subprocess.run([sys.executable, "-c", ANOTHER_PROCESS, *arguments], check=True)
    return torch.load(folder / "out.pt")


def test_an_adapter_says_the_same_in_another_process(saved, elsewhere):
    assert torch.equal(elsewhere["logits"], outputs(saved[1])[0])


def test_loading_an_adapter_needs_no_peft(elsewhere):
    assert not elsewhere["had_peft"]


def test_an_adapter_is_used_like_any_other_model(saved):
    model, network = saved
    assert find_model("mine", model.path.parent) == model
    assert model in list_models(model.path.parent)
    close(outputs(network), outputs(load_segmenter(model)))


def test_others_read_the_adapter_with_peft_alone(saved):
    from peft import PeftModel

    model, network = saved
    theirs = PeftModel.from_pretrained(tiny_network(), str(model.path / "adapter")).eval()
    assert differ(outputs(network)[:2], outputs(theirs.base_model.model)[:2]) == 0


def test_the_digest_follows_the_weights_the_scale_and_the_base(tmp_path):
    base, other = tiny_model(tmp_path, "base"), tiny_model(tmp_path, "other", seed=7)

    def digest(name, **options):
        return adapter_model(tmp_path, name, **{"base": base, **options})[0].digest

    first = digest("a")
    assert digest("b") == first
    assert len({first, digest("c", seed=2), digest("d", base=other), digest("e", settings=LoraConfig(alpha=8))}) == 4


def test_an_adapter_may_change_a_model_that_is_an_adapter_itself(tmp_path):
    first, network = adapter_model(tmp_path)
    base = load_network(first)
    second = LoraConfig(rank=2)
    saved = save_adapter(adapted(base, second), tmp_path / "second", "", base=first, settings=second, lineage=None)
    assert saved.base == first.reference
    close(outputs(base), outputs(load_network(saved)))
    assert differ(outputs(network), outputs(base)) > 0.01


def test_only_the_settings_that_the_adapter_has_are_written(tmp_path):
    network = adapted(tiny_network(), LoraConfig())
    with pytest.raises(ValueError, match="has the settings rank=8"):
        save_adapter(network, tmp_path / "m", "", base=tiny_model(tmp_path), settings=LoraConfig(rank=4), lineage=None)
    assert not (tmp_path / "m").exists()


def test_other_files_go_into_the_folder_with_it(tmp_path):
    network, base = adapted(tiny_network(), LoraConfig()), tiny_model(tmp_path)
    saved = save_adapter(
        network, tmp_path / "m", "", base=base, settings=LoraConfig(), lineage=None, more={"notes.json": b"{}"}
    )
    assert (saved.path / "notes.json").read_bytes() == b"{}"


def test_a_model_is_never_overwritten_by_an_adapter(tmp_path):
    base = tiny_model(tmp_path, "base")
    before = {p.name: p.read_bytes() for p in base.path.iterdir()}
    with pytest.raises(ModelError, match="Model base: found a model of that name already"):
        adapter_model(tmp_path, "base", base=base)
    assert {p.name: p.read_bytes() for p in base.path.iterdir()} == before


@pytest.mark.parametrize("allowed", [0, 1000, 230_000])
def test_a_full_disk_leaves_nothing_that_could_be_taken_for_an_adapter(tmp_path, monkeypatch, allowed):
    """The disk refuses after so many bytes: at once, within the weights, or after them."""
    base, fdopen, written = tiny_model(tmp_path, "base"), os.fdopen, [0]

    class Full:
        def __init__(self, handle, mode):
            self.stream = fdopen(handle, mode)

        def write(self, content):
            written[0] += len(content)
            if written[0] > allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.stream.write(content)

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

    network = adapted(tiny_network(), LoraConfig())
    arguments = {"base": base, "settings": LoraConfig(), "lineage": None}
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fdopen", Full)
        with pytest.raises(SessionError, match="the disk is full"):
            save_adapter(network, tmp_path / "m", "x" * 1_000_000, **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["base"]
    assert load_network(save_adapter(network, tmp_path / "m", "", **arguments))


# Bases


def test_a_base_is_found_by_its_digest_whatever_its_name(model):
    folder = model.path.parent
    (folder / "base").rename(folder / "renamed")
    tiny_model(folder, "base", seed=9)
    assert find_base(model).name == "renamed"
    assert load_network(model)


def test_a_base_may_be_a_shipped_model(tmp_path):
    starter = find_model("starter")
    network = load_network(starter)
    settings = LoraConfig(rank=1)
    saved = save_adapter(adapted(network, settings), tmp_path / "m", "", base=starter, settings=settings, lineage=None)
    assert find_base(saved) == starter
    require_in_reach(starter, tmp_path)


def test_an_adapter_without_its_base_is_refused_with_the_name_and_the_digest_of_the_one_it_needs(model):
    digest = model.base.digest[:12]
    shutil.rmtree(model.path.parent / "base")
    with pytest.raises(ModelError, match=f"Model mine: found no base base with digest {digest} in .* copy that one"):
        load_network(model)


def test_a_base_with_other_weights_of_the_same_name_is_told_from_a_missing_one(model):
    shutil.rmtree(model.path.parent / "base")
    tiny_model(model.path.parent, "base", seed=9)
    with pytest.raises(ModelError, match=r"but one of that name with other weights in .*base"):
        load_network(model)


def test_a_base_whose_weights_were_altered_is_refused(model):
    path = model.path.parent / "base" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="Model base: found weights with digest"):
        load_network(model)


def test_damaged_neighbours_do_not_keep_a_base_from_being_found(model):
    for name in ("a", "z"):
        shutil.copytree(model.path.parent / "base", model.path.parent / name)
        (model.path.parent / name / "digest").unlink()
    assert find_base(model).name == "base"


def test_a_base_out_of_reach_is_refused_before_anything_is_tuned(tmp_path):
    base = tiny_model(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"Model tiny: found it in .*elsewhere, expected .* Copy that model there"):
        require_in_reach(base, tmp_path / "models")
    require_in_reach(base, tmp_path / "elsewhere")


def test_a_model_with_weights_of_its_own_has_no_base_to_be_found(model):
    with pytest.raises(ModelError, match="Model base: found a model with all weights of its own, expected an adapter"):
        find_base(ModelFolder(model.path.parent / "base"))


# Damaged


@pytest.mark.parametrize("cut", [0, 8, 100, 100_000])
def test_weights_cut_short_are_refused_whatever_the_digest_says(model, cut):
    path = model.path / WEIGHTS
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        ModelError, match=r"Model mine: found an adapter with digest \w+, expected \w+\. Copy the whole"
    ):
        load_network(model)
    record_digest(model)
    with pytest.raises(ModelError, match="found adapter weights that are no complete safetensors file"):
        load_network(model)


@pytest.mark.parametrize("name", [n for n in FILES if n not in ("card.md", "lineage.json")])
def test_an_incomplete_folder_is_refused(model, name):
    (model.path / name).unlink()
    with pytest.raises(ModelError, match=r"Model mine: found .* Copy the whole folder again"):
        load_network(model)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "base"}'])
def test_an_adapter_that_does_not_say_what_it_changes_is_refused(model, content):
    (model.path / "base.json").write_text(content)
    with pytest.raises(ModelError, match=r"Model mine: found an adapter without a readable base\.json"):
        _ = model.base


def test_an_altered_scale_is_refused(model):
    path = model.path / "adapter/adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 16.0', '"lora_alpha": 17.0'))
    with pytest.raises(ModelError, match="found an adapter with digest"):
        load_network(model)


@pytest.mark.parametrize("content", ["{}", '{"peft_type": "LOHA"}', None])
def test_settings_that_are_none_of_a_low_rank_adapter_are_refused(model, content):
    path = model.path / "adapter/adapter_config.json"
    path.write_text(content or path.read_text().replace('"r": 8', '"r": 1000000000'))
    record_digest(model)
    with pytest.raises(ModelError, match=r"found an unknown adapter_config\.json"):
        load_network(model)


def test_an_adapter_of_another_network_is_refused(model):
    other = save_network(tiny_network(feature_size=24), model.path.parent / "large", "")
    (model.path / "base.json").write_text(other.reference.model_dump_json())
    record_digest(model)
    with pytest.raises(ModelError, match=r"found a config\.json that is not that of its base large"):
        load_network(model)
    shutil.copy(other.path / "config.json", model.path / "config.json")
    with pytest.raises(
        ModelError, match=r"found an adapter with weights that do not fit swin_unetr, \d+ of another sh"
    ):
        load_network(model)


def test_weights_that_do_not_fit_are_refused_by_name(model):
    rewrite(model, lambda w: w.pop("base_model.model.class_head.out.bias"))
    with pytest.raises(ModelError, match=r"Model mine: found an adapter with .* 1 missing \(class_head\.out\.bias\)"):
        load_network(model)


# Switched


def test_adapters_are_switched_on_one_base_in_memory(tmp_path):
    base = tiny_model(tmp_path, "base")
    names = {"one": LoraConfig(), "two": LoraConfig(rank=2, convolutions=True), "three": LoraConfig(rank=4, dora=True)}
    models = {
        name: adapter_model(tmp_path, name, base=base, settings=settings, seed=seed)[0]
        for seed, (name, settings) in enumerate(names.items())
    }
    network = load_network(base)
    image, before, weights = image_for(network), tensors_of(network), list(network.parameters())
    expected = {None: outputs(network, image)}
    expected |= {name: outputs(load_network(model), image) for name, model in models.items()}
    adapters = Adapters(network, base)
    shutil.rmtree(base.path)  # it is not read again
    for model in models.values():
        adapters.add(model)
        assert adapters.active == base
    for name in ("one", None, "two", "three", "one", "two", None):
        adapters.switch(name)
        assert differ(expected[name], outputs(network, image)) == 0
        assert adapters.active == models.get(name, base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(network).items())
    assert all(one is other for one, other in zip(weights, network.parameters(), strict=True))


def test_an_adapter_added_while_another_is_on_is_one_of_the_base(tmp_path):
    base = tiny_model(tmp_path, "base")
    models = [adapter_model(tmp_path, name, base=base, seed=seed)[0] for seed, name in enumerate(("one", "two"))]
    network = load_network(base)
    adapters = Adapters(network, base)
    adapters.add(models[0])
    adapters.switch("one")
    adapters.add(models[1])
    assert adapters.active == models[0]
    assert differ(outputs(network), outputs(load_network(models[0]))) == 0
    adapters.switch("two")
    assert differ(outputs(network), outputs(load_network(models[1]))) == 0


def test_weights_that_a_pass_has_made_inference_tensors_are_switched_too(saved):
    with torch.inference_mode():
        network = load_network(ModelFolder(saved[0].path.parent / "base"))
    adapters = Adapters(network, ModelFolder(saved[0].path.parent / "base"))
    adapters.add(saved[0])
    adapters.switch("mine")
    close(outputs(saved[1]), outputs(network))


def test_an_adapter_of_another_base_is_not_added(saved, tmp_path):
    other = tiny_model(tmp_path, "other", seed=9)
    adapters = Adapters(load_network(other), other)
    with pytest.raises(ModelError, match=r"Model mine: found one of base \(\w+\), expected an adapter of other"):
        adapters.add(saved[0])
    with pytest.raises(ModelError, match=r"Model other: found none, expected an adapter of other"):
        adapters.add(other)


def test_an_adapter_that_cannot_be_read_leaves_the_one_that_is_on(model, tmp_path):
    base = find_base(model)
    adapters = Adapters(load_network(base), base)
    adapters.add(model)
    adapters.switch("mine")
    before = tensors_of(adapters.network)
    broken = ModelFolder(shutil.copytree(model.path, model.path.parent / "broken"))
    rewrite(broken, lambda w: w.pop("base_model.model.class_head.out.bias"))
    with pytest.raises(ModelError, match="Model broken: found an adapter with"):
        adapters.add(broken)
    assert adapters.active == model
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(adapters.network).items())
    with pytest.raises(ModelError, match="Model broken: found no such adapter of base, expected one of: mine"):
        adapters.switch("broken")


# Merged


def test_a_merged_model_has_all_weights_of_its_own(saved, tmp_path):
    model, network = saved
    merged = merge_adapter(model, tmp_path / "whole", "# whole\n")
    assert not merged.is_adapter
    assert merged.path.parent != model.path.parent
    loaded, expected = load_network(merged).state_dict(), load_network(model).state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    close(outputs(network), outputs(load_network(merged)))
    assert merged.has_trained_heads
    *before, last = merged.lineage.stages
    assert tuple(before) == model.lineage.stages
    assert (last.objective, last.parts, last.digest) == ("merged: mine into base", (), merged.digest)


def test_an_adapter_without_a_lineage_is_merged_into_a_model_without_one(tmp_path):
    network, base = adapted(tiny_network(), LoraConfig()), tiny_model(tmp_path)
    saved = save_adapter(network, tmp_path / "m", "", base=base, settings=LoraConfig(), lineage=None)
    assert saved.has_trained_heads
    merged = merge_adapter(saved, tmp_path / "whole", "")
    assert (merged.lineage, merged.has_trained_heads) == (Lineage(), True)


def test_what_was_tuned_from_a_pre_trained_model_can_label(tmp_path):
    stage = Stage(name="pre", objective="reconstruction", data="40", epochs=3, parts=("stem", "encoder"))
    base = save_network(tiny_network(), tmp_path / "pre", "", lineage=Lineage(stages=(stage,)))
    network = adapted(tiny_network(), LoraConfig())
    tuned = Stage(name="m", objective="tune-lora", data="4", epochs=3, parts=("encoder", "heads"))
    lineage = Lineage(stages=(stage, tuned))
    saved = save_adapter(network, tmp_path / "m", "", base=base, settings=LoraConfig(), lineage=lineage)
    assert not base.has_trained_heads
    assert load_segmenter(saved)


def test_only_adapters_are_merged(saved, tmp_path):
    base = ModelFolder(saved[0].path.parent / "base")
    with pytest.raises(ModelError, match="expected an adapter"):
        merge_adapter(base, tmp_path / "whole", "")
    assert not (tmp_path / "whole").exists()
