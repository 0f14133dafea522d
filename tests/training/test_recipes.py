import math

import pytest
import torch

from napari_pcs.errors import ModelError
from napari_pcs.models.networks import build_network
from napari_pcs.models.resnet import ResNetConfig
from napari_pcs.objectives import known_objectives
from napari_pcs.training.optimiser import learning_rate
from napari_pcs.training.recipes import RECIPES, merged, read_recipe, stage_config

VOLUMES = ("adversarial", "barlow_twins", "contrastive", "diffusion", "reconstruction", "simclr", "swav")
IMAGES = ("barlow_twins", "simclr", "swav")
EVERY = [(recipe, name, 3) for recipe in RECIPES for name in VOLUMES]
EVERY += [(recipe, name, 2) for recipe in RECIPES for name in IMAGES]


def test_no_objective_of_the_package_is_left_out():
    ours = {n for n, kind in known_objectives().items() if kind.__module__.startswith("napari_pcs.")}
    assert set(VOLUMES) == ours
    assert set(IMAGES) == {n for n in ours if 2 in known_objectives()[n].spatial_dims}


@pytest.mark.parametrize(("recipe", "name", "dims"), EVERY)
def test_every_recipe_has_settings_for_every_objective_that_fit_its_network(recipe, name, dims):
    config = read_recipe(recipe).config(name, dims)
    kind = config.objective_class
    assert config.objective == name
    assert isinstance(config.settings, kind.config_class)
    assert config.network.spatial_dims == dims == len(config.patch)
    assert dims in kind.spatial_dims
    assert config.loop.batch_size >= (2 if kind.compares else 1)
    # The JSON in a run's folder is read back as what it was.
    assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(("name", "dims"), [(n, 3) for n in VOLUMES] + [(n, 2) for n in IMAGES])
def test_the_quick_recipe_builds_each_objective_with_its_network(name, dims):
    config = read_recipe("quick").config(name, dims)
    network = build_network(config.network)
    objective = config.objective_class(network, config.settings)
    assert {id(p) for p in network.parameters()} <= {id(p) for p in objective.parameters()}
    trained = {id(p) for turn in objective.all_turns() for p in objective.parameters_of(turn)}
    assert trained
    multiple = network.side_multiple
    assert all(side % multiple == 0 for side in config.patch)
    assert max(config.patch) > multiple


@pytest.mark.parametrize("name", VOLUMES)
def test_the_published_recipe_has_the_first_papers_numbers(name):
    config = read_recipe("published").config(name)
    loop, network = config.loop, config.network
    assert (loop.epochs, loop.batch_size) == (600, 4 if name == "contrastive" else 8)
    assert (loop.optimiser.name, loop.optimiser.learning_rate, loop.optimiser.weight_decay) == ("adam", 5e-3, 1e-4)
    rates = [learning_rate(loop, epoch * 7, 7) for epoch in (0, 299, 300, 599)]
    assert rates == pytest.approx([5e-3, 5e-3, 5e-4, 5e-4])
    assert loop.clip_norm is None
    assert loop.patience is None
    if name == "diffusion":
        assert config.patch == (32, 32, 32)
        assert network.architecture == "diffusion_unet"
        assert (network.channels, network.attention, network.head_channels) == ((32, 32, 64), (False, False, True), 64)
        assert (network.residual_blocks, network.cross_attention_dim) == (2, 32)
        settings = config.settings
        assert (settings.inference_steps, settings.schedule) == (25, "scaled_linear")
        assert (settings.beta_start, settings.beta_end, settings.loss) == (5e-3, 2e-2, "ssim")
    else:
        assert config.patch == (64, 64, 64)
        assert (network.architecture, network.feature_size, network.window_size) == ("swin_unetr", 24, 7)
        assert not network.position


def test_published_reconstruction_sees_the_whole_patch_and_the_adversary_has_the_published_cadence():
    assert read_recipe("published").config("reconstruction").settings.masked_share == 0
    assert read_recipe("published").config("adversarial").settings.cadence == 1


@pytest.mark.parametrize("name", IMAGES)
def test_the_published_recipe_for_images_is_the_second_papers(name):
    config = read_recipe("published").config(name, 2)
    assert (config.network.architecture, config.network.spatial_dims) == ("resnet18", 2)
    assert config.loop.optimiser.name == "sgd"


def test_the_laptops_network_is_that_of_the_shipped_model():
    network = read_recipe("laptop").config("reconstruction").network
    assert (network.feature_size, network.window_size, network.position) == (12, 4, True)


def test_a_published_diffusion_network_has_the_weights_that_its_channels_ask_for():
    """Counted on the way down by hand: convolutions of 3 x 3 x 3 and what embeds the time step."""
    with torch.device("meta"):
        network = build_network(read_recipe("published").config("diffusion").network)
    first = 27 * 1 * 32 + 32
    time = (32 * 128 + 128) + (128 * 128 + 128)
    counts = {name: p.numel() for name, p in network.named_parameters()}
    assert sum(n for name, n in counts.items() if ".conv_in." in name) == first
    assert sum(n for name, n in counts.items() if ".time_embed." in name) == time


# Changing a recipe


def test_changes_go_into_a_recipe_and_leave_the_rest():
    base = {"loop": {"epochs": 5, "optimiser": {"name": "adam", "learning_rate": 1}}, "patch": [64, 64, 64]}
    found = merged(base, {"loop": {"optimiser": {"learning_rate": 2}}, "patch": [32, 32, 32]})
    assert found == {
        "loop": {"epochs": 5, "optimiser": {"name": "adam", "learning_rate": 2}},
        "patch": [32, 32, 32],
    }
    assert base["loop"]["optimiser"]["learning_rate"] == 1
    assert base["patch"] == [64, 64, 64]


def test_a_network_of_another_architecture_replaces_the_whole_network():
    base = read_recipe("quick").settings("simclr", 3)
    kept = stage_config(merged(base, {"network": {"feature_size": 24}})).network
    assert (kept.feature_size, kept.window_size) == (24, 4)
    same = stage_config(merged(base, {"network": {"architecture": "swin_unetr", "feature_size": 24}})).network
    assert (same.feature_size, same.window_size) == (24, 4)
    other = stage_config(merged(base, {"network": {"architecture": "resnet18", "spatial_dims": 3}})).network
    assert other == ResNetConfig(spatial_dims=3)


def test_what_cannot_be_is_told_field_by_field():
    settings = read_recipe("quick").settings("reconstruction", 3)
    wrong = merged(settings, {"patchs": 1, "loop": {"epochs": 0, "optimiser": {"learning_rate": math.inf}}})
    with pytest.raises(ModelError) as error:
        stage_config(wrong)
    told = str(error.value)
    assert "Settings of reconstruction" in told
    assert all(name in told for name in ("loop.epochs: ", "loop.optimiser.learning_rate: ", "patchs: "))


def test_an_unknown_recipe_or_objective_is_answered_with_those_there_are():
    with pytest.raises(ModelError, match="expected one of: laptop, quick, published"):
        read_recipe("fast")
    with pytest.raises(ModelError, match="Objective jigsaw: found none of that name"):
        read_recipe("quick").config("jigsaw")
