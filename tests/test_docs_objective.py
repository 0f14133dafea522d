"""The objective that the docs show works as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import make_loop

from napari_pcs.data.patch import Patch
from napari_pcs.errors import InputError
from napari_pcs.models.networks import build_network
from napari_pcs.models.swin_unetr import SwinUNETRConfig
from napari_pcs.objectives import base, find_objective
from napari_pcs.training.batches import PatchBatches
from napari_pcs.training.events import Epoch, Step
from napari_pcs.training.plan import load_objective_file
from napari_pcs.training.processes import Processes

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "objective.md"
SIZE = (64, 32, 32)


class Slopes:
    """Patches that brighten along y, so that their posture can be seen."""

    names = people = ("one", "two")

    def draw(self, index, size, rng):
        image = np.broadcast_to(np.linspace(0, 1, size[1], dtype=np.float32)[:, None], size)
        return Patch(image[None], np.full((3, *size), index, np.float32), self.names[index])


@pytest.fixture
def rotation(tmp_path, monkeypatch):
    (code,) = re.findall(r"<!-- example -->\n```python\n(.*?)```\n<!-- /example -->", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "rotation.py"
    path.write_text(code)
    monkeypatch.setattr(base, "_known", dict(base._known))
    return find_objective(load_objective_file(path))


@pytest.fixture
def objective(rotation):
    torch.manual_seed(0)
    network = build_network(SwinUNETRConfig(feature_size=12, window_size=4))
    return rotation(network, rotation.config_class())


def batches(rotation, size=SIZE):
    return PatchBatches(
        Slopes(),
        [0, 1],
        [],
        rotation,
        rotation.config_class(),
        size,
        times=1,
        batch_size=2,
        tries=1,
        seed=0,
        processes=Processes("cpu"),
    )


def test_the_objective_in_the_docs_trains_the_parts_that_it_names_and_no_other(rotation, objective):
    network = objective.network
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    events = list(make_loop(objective, batches(rotation), epochs=1, batch_size=2).events())
    (step,) = [event for event in events if isinstance(event, Step)]
    assert 0 < step.loss < 10
    assert set(step.figures) == {"accuracy"}
    assert any(isinstance(event, Epoch) for event in events)
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    trained = tuple(module for part in rotation.trained_parts for module, _ in network.modules_of(part))
    assert moved
    assert all(name.startswith(trained) for name in moved)


def test_the_sample_in_the_docs_is_turned_as_often_as_it_says(rotation):
    patch = Slopes().draw(0, SIZE, None)
    config = rotation.config_class(noise=0)
    for seed in range(8):
        sample = rotation.sample(patch, SIZE, config, np.random.default_rng(seed))
        back = np.rot90(sample["image"], -int(sample["turns"]), axes=(2, 3))
        np.testing.assert_array_equal(back, patch.image)


def test_patches_that_cannot_be_turned_are_refused(rotation):
    with pytest.raises(InputError, match="along y"):
        next(batches(rotation, (32, 64, 32)).epoch(0))
