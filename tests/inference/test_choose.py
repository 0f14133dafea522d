"""Which engine runs a network."""

import pytest
import torch
from networks import CPU, tiny_network

from napari_pcs.errors import CancelledError, InputError, ModelError
from napari_pcs.inference import choose as module
from napari_pcs.inference.choose import Engines, engine_name
from napari_pcs.inference.openvino_engine import OpenVINOEngine
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.inference.weights import UnknownWeightsError
from napari_pcs.stop import StopToken

SMALL, LARGE = (64, 64, 32), (96, 160, 128)


@pytest.fixture(autouse=True)
def with_openvino(monkeypatch):
    """As if OpenVINO were installed, and nobody had chosen."""
    monkeypatch.delenv("NAPARI_PCS_ENGINE")
    monkeypatch.setattr(module, "runs_in_openvino", lambda _: True)
    monkeypatch.setattr(module, "openvino_version", lambda: "2026.4.1")
    monkeypatch.setattr(module, "best_openvino_precision", lambda: "fp32")
    monkeypatch.setattr(module, "free_memory", lambda _: 10**12)


@pytest.fixture(scope="module")
def network():
    return tiny_network()


class Trials:
    """Knows what it is told, and what it has tried."""

    def __init__(self, known=None, good=True, good_shape=True, error=None):
        self._known, self.good, self.good_shape, self.error, self.tried = known, good, good_shape, error, []

    def known(self, _engine, _digest, _shape):
        return self._known

    def try_weights(self, _engine, digest, _stop):
        self.tried.append(digest)
        if self.error:
            raise self.error
        self._known = self.good
        return self.good

    def try_shape(self, _engine, shape, _stop):
        self.tried.append(shape)
        return self.good_shape


def chosen(network, trials, shape=LARGE, *, device=CPU, wanted="auto", idle=False):
    engines = Engines(network, "ab12", device, wanted, trials)
    return type(engines.for_shape(shape, StopToken(), idle=idle))


def test_openvino_runs_weights_that_are_known_to_agree_without_any_trial(network):
    trials = Trials(known=True)
    assert chosen(network, trials) is OpenVINOEngine
    assert chosen(network, trials, SMALL) is OpenVINOEngine
    assert trials.tried == []


def test_pytorch_runs_weights_that_are_known_not_to(network):
    trials = Trials(known=False)
    assert chosen(network, trials, idle=True) is TorchEngine
    assert trials.tried == []


def test_new_weights_are_tried_first_for_a_hemisphere_which_saves_more_than_the_trial_takes(network):
    trials = Trials()
    assert chosen(network, trials) is OpenVINOEngine
    assert trials.tried == ["ab12"]
    assert chosen(network, Trials(good=False)) is TorchEngine


def test_nobody_waits_for_a_trial_that_takes_more_than_it_saves(network):
    trials = Trials()
    assert chosen(network, trials, SMALL) is TorchEngine
    assert trials.tried == []


def test_in_idle_time_weights_and_shape_are_tried(network):
    trials = Trials()
    assert chosen(network, trials, SMALL, idle=True) is OpenVINOEngine
    assert trials.tried == ["ab12", SMALL]
    assert chosen(network, Trials(known=True, good_shape=False), idle=True) is TorchEngine


def test_a_shape_is_not_compared_where_pytorch_has_no_room_for_it(network, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda _: 10**8)
    trials = Trials()
    assert chosen(network, trials, idle=True) is OpenVINOEngine
    assert trials.tried == ["ab12"]


def test_weights_can_be_tried_before_any_image_is_there(network):
    trials = Trials()
    Engines(network, "ab12", CPU, agreements=trials).try_out(StopToken())
    assert trials.tried == ["ab12"]


def test_the_same_engine_is_given_again_so_that_what_it_has_compiled_is_kept(network):
    engines = Engines(network, "ab12", CPU, agreements=Trials())
    assert engines.for_shape(LARGE, StopToken()) is engines.for_shape(SMALL, StopToken())
    plain = Engines(network, "ab12", CPU, "torch")
    assert plain.for_shape(LARGE, StopToken()) is plain.for_shape(SMALL, StopToken())


@pytest.mark.parametrize(("half_is_good", "precision"), [(True, "bf16"), (False, "fp32")])
def test_weights_that_half_precision_does_not_suit_are_run_by_openvino_in_single(
    network, monkeypatch, half_is_good, precision
):
    class OfPrecision(Trials):
        def known(self, engine, _digest, _shape):
            return half_is_good if engine.precision == "bf16" else True

    monkeypatch.setattr(module, "best_openvino_precision", lambda: "bf16")
    found = Engines(network, "ab12", CPU, agreements=OfPrecision()).for_shape(LARGE, StopToken())
    assert found.name == f"OpenVINO {precision}"


# What was asked for


def test_who_asks_for_pytorch_gets_it_and_nothing_is_tried(network):
    trials = Trials(known=True)
    assert chosen(network, trials, wanted="torch", idle=True) is TorchEngine
    assert trials.tried == []


def test_openvino_that_was_asked_for_is_tried_whatever_the_image(network):
    assert chosen(network, Trials(), SMALL, wanted="openvino") is OpenVINOEngine
    assert chosen(network, Trials(good=False), SMALL, wanted="openvino") is TorchEngine


@pytest.mark.parametrize(
    ("variable", "wanted", "name"),
    [
        (None, "auto", "auto"),
        ("", "auto", "auto"),
        ("torch", "auto", "torch"),
        (" openvino ", "auto", "openvino"),
        ("torch", "openvino", "openvino"),
    ],
)
def test_the_variable_counts_where_nothing_else_was_said(monkeypatch, variable, wanted, name):
    if variable is not None:
        monkeypatch.setenv("NAPARI_PCS_ENGINE", variable)
    assert engine_name(wanted) == name


def test_an_engine_that_there_is_not_is_refused(monkeypatch):
    with pytest.raises(InputError, match="the engine tensorrt"):
        engine_name("tensorrt")
    monkeypatch.setenv("NAPARI_PCS_ENGINE", "onnx")
    with pytest.raises(InputError, match="NAPARI_PCS_ENGINE"):
        engine_name()


def test_openvino_that_was_asked_for_and_is_not_there_is_an_error_that_says_how_to_get_it(network, monkeypatch):
    monkeypatch.setattr(module, "openvino_version", lambda: None)
    with pytest.raises(ModelError, match=r"pip install napari-pcs\[cpu\]"):
        Engines(network, "ab12", CPU, "openvino")


def test_openvino_is_for_the_cpu_only(network, monkeypatch):
    monkeypatch.setattr("napari_pcs.inference.torch_engine.best_precision", lambda _: "bf16")
    gpu = torch.device("cuda")
    with pytest.raises(ModelError, match="found the device cuda, expected the CPU"):
        Engines(network, "ab12", gpu, "openvino")
    trials = Trials(known=True)
    assert chosen(network, trials, device=gpu, idle=True) is TorchEngine
    assert trials.tried == []


# What can go wrong


def test_where_openvino_is_not_installed_pytorch_runs_all(network, monkeypatch):
    monkeypatch.setattr(module, "runs_in_openvino", lambda _: False)
    trials = Trials(known=True)
    assert chosen(network, trials, idle=True) is TorchEngine


def test_openvino_that_does_not_start_is_not_used_and_the_log_says_why(network, monkeypatch, caplog):
    def broken():
        msg = "libtbb.so.12: cannot open shared object file\nand more"
        raise ImportError(msg)

    monkeypatch.setattr(module, "best_openvino_precision", broken)
    assert chosen(network, Trials(known=True)) is TorchEngine
    assert "does not start (libtbb.so.12: cannot open shared object file); PyTorch runs the model" in caplog.text


@pytest.mark.parametrize("error", [UnknownWeightsError("Found lora_A."), RuntimeError("Exception from src/core")])
def test_a_model_that_openvino_cannot_run_is_tried_once(network, error):
    trials = Trials(error=error)
    engines = Engines(network, "ab12", CPU, agreements=trials)
    assert [type(engines.for_shape(LARGE, StopToken())) for _ in range(2)] == [TorchEngine] * 2
    assert trials.tried == ["ab12"]


def test_a_trial_that_ran_out_of_memory_is_made_again_another_time(network):
    trials = Trials(error=MemoryError("std::bad_alloc"))
    engines = Engines(network, "ab12", CPU, agreements=trials)
    assert type(engines.for_shape(LARGE, StopToken())) is TorchEngine
    trials.error = None
    assert type(engines.for_shape(LARGE, StopToken())) is OpenVINOEngine


def test_a_trial_can_be_cancelled(network):
    engines = Engines(network, "ab12", CPU, agreements=Trials(error=CancelledError("Cancelled.")))
    with pytest.raises(CancelledError):
        engines.for_shape(LARGE, StopToken())


# On a GPU


def test_a_gpu_gets_its_copy_of_the_weights_ahead_and_a_full_one_is_no_error(network, monkeypatch, caplog):
    monkeypatch.setattr("napari_pcs.inference.torch_engine.best_precision", lambda _: "bf16")
    engines = Engines(network, "ab12", torch.device("meta"))
    engines.place()
    assert next(engines.plain._placed.parameters()).device.type == "meta"

    def full(_self):
        msg = "CUDA out of memory. Tried to allocate 20.00 MiB"
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr(TorchEngine, "place", full)
    engines.place()
    assert "does not fit on meta" in caplog.text

    def lost(_self):
        msg = "CUDA error: unspecified launch failure"
        raise RuntimeError(msg)

    monkeypatch.setattr(TorchEngine, "place", lost)
    with pytest.raises(RuntimeError, match="launch failure"):
        engines.place()


def test_on_the_cpu_there_is_nothing_to_place(network):
    engines = Engines(network, "ab12", CPU, agreements=Trials())
    engines.place()
    assert engines.plain._placed is None
