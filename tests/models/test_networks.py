"""What holds for every network, whichever there are: a new one is tested here as soon as it is in the union."""

from collections import Counter
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from napari_pcs.models.contract import NetworkConfig
from napari_pcs.models.networks import AnyNetworkConfig, build_network, parse_network_config
from napari_pcs.models.parts import PARTS
from napari_pcs.models.resnet import ResNet18, ResNetConfig
from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR, SwinUNETRConfig

CONFIGS = [
    *(cls() for cls in get_args(get_args(AnyNetworkConfig)[0])),
    SwinUNETRConfig(window_size=4, position=False),
    ResNetConfig(dimensions=3, position=True, classes=4),
]
every_network = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_dump_json())


@every_network
def test_every_weight_and_every_statistic_is_in_exactly_one_part(config):
    network = build_network(config)
    assert set(network.parts) == set(PARTS)
    covered = Counter(
        f"{name}.{inner}"
        for part in PARTS
        for name, module in network.modules_of(part)
        for inner in module.state_dict()
    )
    assert covered == Counter(dict.fromkeys(network.state_dict(), 1))


@every_network
def test_a_configuration_comes_back_from_its_json_and_builds_the_same_network(config):
    back = parse_network_config(config.model_dump_json())
    assert back == config
    shapes = [{k: t.shape for k, t in build_network(c).state_dict().items()} for c in (config, back)]
    assert shapes[0] == shapes[1]


@every_network
def test_an_embedding_is_one_row_of_the_promised_length_for_each_image(config):
    network = build_network(config).eval()
    side = max(64, network.side_multiple)
    image = torch.zeros((2, config.in_channels, side, *[32] * (config.spatial_dims - 1)))
    with torch.inference_mode():
        assert network.embed(image).shape == (2, network.embedding_channels)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ('{"architecture": "swin_unetr", "feature_size": 12, "window_size": 4, "position": true}', MultiTaskSwinUNETR),
        ('{"architecture": "resnet18", "dimensions": 2, "classes": 4}', ResNet18),
        ('{"architecture": "resnet18", "spatial_dims": 3}', ResNet18),
    ],
)
def test_the_architecture_says_which_network_it_is(text, network):
    assert type(build_network(parse_network_config(text))) is network


@pytest.mark.parametrize(
    "text",
    ['{"feature_size": 12}', '{"architecture": "vgg"}', '{"architecture": "resnet18", "feature_size": 12}', "[]", ""],
)
def test_what_is_no_known_network_is_refused(text):
    with pytest.raises(ValidationError):
        parse_network_config(text)


def test_a_configuration_without_a_network_is_an_error():
    class Other(NetworkConfig):
        @property
        def in_channels(self):
            return 1

        @property
        def spatial_dims(self):
            return 2

    with pytest.raises(TypeError, match="Other"):
        build_network(Other(architecture="other"))
