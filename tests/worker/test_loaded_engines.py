"""What runs the networks that the worker has loaded."""

from types import SimpleNamespace

import pytest
import torch
from networks import look_through_a_small_box, tiny_model

from napari_pcs.inference import choose
from napari_pcs.inference.choose import Engines
from napari_pcs.prediction import Prediction
from napari_pcs.stop import StopToken
from napari_pcs.worker.loaded import LoadedNetworks


@pytest.fixture
def asked(monkeypatch):
    """What engines are asked for: shapes, whether in idle time, and trials before there is any image."""
    found = SimpleNamespace(shapes=[], trials=0)
    for_shape = Engines.for_shape

    def shape(self, shape, stop, *, idle=False):
        found.shapes.append((shape, idle))
        return for_shape(self, shape, stop, idle=idle)

    def trial(self, stop):
        found.trials += 1

    monkeypatch.setattr(Engines, "for_shape", shape)
    monkeypatch.setattr(Engines, "try_out", trial)
    return found


def test_trials_are_made_when_a_model_is_warmed_and_in_idle_time_only(asked, monkeypatch, tmp_path, coarse_left):
    look_through_a_small_box(monkeypatch)
    networks, model = LoadedNetworks(), tiny_model(tmp_path)
    list(networks.warm(model, "cpu", StopToken()))
    assert (asked.trials, asked.shapes) == (1, [])
    for idle in (False, True):
        *_, found = networks.predict(model, coarse_left, "cpu", StopToken(), idle=idle)
        assert isinstance(found, Prediction)
    assert asked.trials == 1
    assert asked.shapes == [((64, 64, 32), False), ((64, 64, 32), True)]


def test_engines_are_kept_with_their_network_and_go_with_it(tmp_path):
    networks, models = LoadedNetworks(), [tiny_model(tmp_path, name, seed) for seed, name in enumerate("abc")]
    first = networks._engines_of(models[0], "cpu")
    assert networks._engines_of(models[0], "cpu") is first
    assert first.network is networks.get(models[0])
    for model in models[1:]:
        networks._engines_of(model, "cpu")
    assert list(networks._engines) == [model.digest for model in models[1:]]
    networks.clear()
    assert not networks._engines


def test_another_device_has_another_engine_and_the_network_stays_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_pcs.models.device.choose_device", torch.device)
    networks, model = LoadedNetworks(), tiny_model(tmp_path)
    here = networks._engines_of(model, "cpu")
    there = networks._engines_of(model, "meta")
    assert there is not here
    there.place()
    assert next(networks.get(model).parameters()).device.type == "cpu"
    assert next(there.plain._placed.parameters()).device.type == "meta"


def test_openvino_predicts_what_pytorch_predicts_once_it_was_tried(monkeypatch, tmp_path, coarse_left):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr(choose, "PROBE", (64, 32, 32))
    monkeypatch.setattr("napari_pcs.inference.agreement.PROBE", (64, 32, 32))
    look_through_a_small_box(monkeypatch)
    networks, model = LoadedNetworks(), tiny_model(tmp_path)
    *_, plain = networks.predict(model, coarse_left, "cpu", StopToken())
    networks.clear()
    monkeypatch.setenv("NAPARI_PCS_ENGINE", "auto")
    *_, found = networks.predict(model, coarse_left, "cpu", StopToken(), idle=True)
    assert (plain.route, found.route) == ("one pass, PyTorch fp32", f"one pass, {found.engine}")
    assert found.engine.startswith("OpenVINO")
    if found.engine == "OpenVINO fp32":
        assert abs(plain.probabilities - found.probabilities).max() < 1e-4
    assert (plain.labels != found.labels).mean() < 1e-3
