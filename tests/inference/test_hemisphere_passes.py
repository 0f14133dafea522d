"""A hemisphere through a network: at once, in windows, and what is done where a device fails."""

import logging

import numpy as np
import pytest
import torch
from networks import CPU, SMALL, random_image, tiny_network

from napari_pcs.errors import CancelledError, ModelError
from napari_pcs.inference import run
from napari_pcs.inference.openvino_engine import OpenVINOEngine
from napari_pcs.inference.run import Route, pad_to_multiple, padded_shape, segment_hemisphere
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.models.contract import SegmentationOutput
from napari_pcs.stop import StopToken

LOST = "CUDA error: an illegal memory access was encountered"
MB = 10**6


@pytest.fixture(scope="module")
def network():
    return tiny_network()


@pytest.fixture(scope="module")
def image():
    return random_image(SMALL)[0].numpy()


@pytest.fixture
def free(monkeypatch):
    """Let devices have so many bytes free."""

    def pretend(**by_device):
        monkeypatch.setattr(run, "free_memory", lambda device: by_device[device.type])

    pretend(cpu=10**12, cuda=10**12)
    return pretend


class FakeGpu(TorchEngine):
    """Computes on the CPU what it can; raises an error at each of the passes named."""

    def __init__(self, network, fails_with=None, at=range(1000)):
        super().__init__(network, CPU, "fp32")
        self.device = torch.device("cuda")
        self.fails_with, self.at, self.passes, self.released = fails_with, at, [], 0

    def run(self, image, stop):
        self.passes.append(tuple(image.shape[2:]))
        if len(self.passes) - 1 in self.at and self.fails_with is not None:
            raise self.fails_with
        return TorchEngine(self.network, CPU, "fp32").run(image, stop)

    def release(self):
        self.released += 1


def through(engine, image, stop=None):
    return segment_hemisphere(engine, image, stop or StopToken())


@pytest.fixture(scope="module")
def expected(network, image):
    """What the CPU says."""
    return through(TorchEngine(network, CPU, "fp32"), image)


# Whole or in windows


@pytest.mark.parametrize("side", [(64, 64, 40), (50, 64, 33)])
def test_whole_and_windows_both_run_and_name_themselves(free, network, side):
    image, found = random_image(side)[0].numpy(), {}
    for memory in (10**12, 0):
        free(cpu=memory)
        probabilities, classes, route = through(TorchEngine(network, CPU, "fp32"), image)
        assert probabilities.shape == (2, *side)
        assert (probabilities[1] <= probabilities[0] + 1e-6).all()
        assert classes.sum() == pytest.approx(1, abs=1e-5)
        found[route.mode] = probabilities
    assert set(found) == {"whole", "windows"}


def test_windows_of_a_larger_image_are_not_the_same_function_and_of_the_same_mind(free, network):
    image = random_image((96, 64, 32))[0].numpy()
    whole = through(TorchEngine(network, CPU, "fp32"), image)[0]
    free(cpu=0)
    windows = through(TorchEngine(network, CPU, "fp32"), image)[0]
    assert not np.array_equal(whole, windows)
    assert np.corrcoef(whole.ravel(), windows.ravel())[0, 1] > 0.5


def test_a_single_window_sees_what_the_whole_pass_sees(free, network, image, expected):
    free(cpu=0)
    windows, classes, route = through(TorchEngine(network, CPU, "fp32"), image)
    assert route.mode == "windows"
    np.testing.assert_allclose(windows, expected[0], atol=1e-5)
    np.testing.assert_allclose(classes, expected[1], atol=1e-5)


def test_zeros_beyond_the_image_change_nothing_within_it(network):
    image = random_image((50, 64, 30))[0].numpy()
    padded = np.pad(image, [(0, 0), (0, 14), (0, 0), (0, 2)])
    engine = TorchEngine(network, CPU, "fp32")
    np.testing.assert_allclose(through(engine, image)[0], through(engine, padded)[0][:, :50, :, :30], atol=1e-6)


def test_padding_goes_to_the_next_multiple_of_32_at_the_far_ends_with_zeros(network):
    image = random_image((33, 64, 1)) + 1
    found = pad_to_multiple(image)
    assert found.shape == (1, 4, 64, 64, 32)
    assert padded_shape(image[0].numpy(), network) == (64, 64, 32)
    assert torch.equal(found[..., :33, :64, :1], image)
    assert found.sum() == pytest.approx(float(image.sum()), rel=1e-5)
    assert torch.equal(pad_to_multiple(found), found)


def test_the_route_is_said_in_one_sentence():
    assert Route("whole", "OpenVINO fp32", "cpu").sentence == "one pass, OpenVINO fp32"
    tried = Route("windows", "PyTorch fp32", "cpu", ("cuda failed", "the CPU was full"))
    assert tried.sentence == "in windows, PyTorch fp32; cuda failed; the CPU was full"


# A small GPU, a full one, and one that disappears


def test_windows_take_over_where_memory_was_promised_and_not_there(free, network, image, expected):
    gpu = FakeGpu(network, torch.OutOfMemoryError(), at=(0,))
    probabilities, _, route = through(gpu, image)
    assert route == Route("windows", "PyTorch fp32", "cuda", ("PyTorch fp32 ran out of memory on cuda",))
    np.testing.assert_allclose(probabilities, expected[0], atol=1e-5)
    assert gpu.released == 1


def test_the_cpu_takes_over_from_a_gpu_without_memory_for_a_single_window(free, network, image, expected):
    gpu = FakeGpu(network, torch.OutOfMemoryError())
    probabilities, classes, route = through(gpu, image)
    assert len(gpu.passes) == 3  # the whole, and windows of either size
    assert route == Route("whole", "PyTorch fp32", "cpu", ("PyTorch fp32 ran out of memory on cuda",))
    np.testing.assert_array_equal(probabilities, expected[0])
    np.testing.assert_array_equal(classes, expected[1])


def test_a_gpu_with_little_free_memory_gets_windows_that_fit_and_the_report_says_why(free, network):
    free(cpu=10**12, cuda=100 * MB)  # the whole needs 94 MB, a window of 64 needs 63 MB
    gpu = FakeGpu(network)
    _, _, route = through(gpu, random_image((96, 64, 32))[0].numpy())
    assert set(gpu.passes) == {(64, 64, 32)}
    assert (route.mode, route.device) == ("windows", "cuda")
    assert route.notes[0] == "one pass by PyTorch fp32 needs 0.09 GB and cuda has 0.10 GB free"


def test_a_gpu_with_no_room_for_any_window_is_left_alone(free, network, image, expected):
    free(cpu=10**12, cuda=50 * MB)
    gpu = FakeGpu(network)
    probabilities, _, route = through(gpu, image)
    assert gpu.passes == []
    assert (route.mode, route.device) == ("whole", "cpu")
    assert len(route.notes) == 2
    np.testing.assert_array_equal(probabilities, expected[0])


@pytest.mark.parametrize("kind", [RuntimeError, getattr(torch, "AcceleratorError", RuntimeError)])
@pytest.mark.parametrize("at", [0, 1])
def test_a_gpu_that_disappears_in_mid_run_is_not_asked_again_and_the_cpu_goes_on(
    free, network, image, expected, kind, at
):
    if at:
        free(cpu=10**12, cuda=2 * 94 * MB)
        image = random_image((96, 64, 64))[0].numpy()  # in windows: the second one fails
        expected = through(TorchEngine(network, CPU, "fp32"), image)
    gpu = FakeGpu(network, kind(LOST), at=(at,))
    probabilities, _, route = through(gpu, image)
    assert len(gpu.passes) == at + 1
    assert gpu.released == 0  # nothing can be freed on it
    assert (route.mode, route.device, route.notes[-1]) == ("whole", "cpu", "cuda failed")
    np.testing.assert_array_equal(probabilities, expected[0])


def test_a_gpu_that_does_not_even_say_how_much_memory_it_has_is_not_used(monkeypatch, network, image, expected):
    def ask(device):
        if device.type == "cuda":
            raise RuntimeError(LOST)
        return 10**12

    monkeypatch.setattr(run, "free_memory", ask)
    gpu = FakeGpu(network)
    probabilities, _, route = through(gpu, image)
    assert gpu.passes == []
    assert route.notes == ("cuda failed",)
    np.testing.assert_array_equal(probabilities, expected[0])


def test_a_model_that_was_lost_with_its_gpu_is_an_error_that_says_what_to_do(free, network, image, monkeypatch):
    class Gone:
        device = torch.device("cuda")

    class OnTheGpu:
        side_multiple = 32
        decoded_channels = 12

        def pass_bytes(self, voxels):
            return voxels

        def parameters(self):
            return iter([Gone()])

        def __deepcopy__(self, memo):
            raise RuntimeError(LOST)

    gpu = FakeGpu(network, RuntimeError(LOST))
    gpu.network = OnTheGpu()
    with pytest.raises(ModelError, match="took the model with it"):
        through(gpu, image)


def test_no_memory_for_a_single_window_on_the_cpu_is_an_error_that_says_what_to_do(monkeypatch, network, image):
    def none(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(network), "forward", none)
    with pytest.raises(ModelError, match="cpu device ran out of memory; close other programs"):
        through(TorchEngine(network, CPU, "fp32"), image)


def test_an_error_that_is_not_the_devices_is_no_reason_to_try_another_way(free, network, image):
    gpu = FakeGpu(network, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        through(gpu, image)
    assert len(gpu.passes) == 1


# OpenVINO


class FakeOpenVINO(OpenVINOEngine):
    name, precision = "OpenVINO fp32", "fp32"

    def __init__(self, network, error=None):
        super().__init__(network)
        self.error = error

    def run(self, image, stop):
        if self.error:
            raise self.error
        return TorchEngine(self.network, CPU, "fp32").run(image, stop)


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp"), "OpenVINO failed"),
        (MemoryError("std::bad_alloc"), "OpenVINO fp32 ran out of memory on cpu"),
    ],
)
def test_pytorch_does_in_one_pass_what_openvino_fails_at(free, network, image, expected, error, note):
    probabilities, _, route = through(FakeOpenVINO(network, error), image)
    assert route == Route("whole", "PyTorch fp32", "cpu", (note,))
    np.testing.assert_array_equal(probabilities, expected[0])


def test_windows_are_left_to_pytorch(free, network, image):
    free(cpu=0)
    _, _, route = through(FakeOpenVINO(network), image)
    assert (route.mode, route.engine) == ("windows", "PyTorch fp32")
    assert (
        f"one pass by OpenVINO fp32 needs {(300 * MB + 20 * 12 * 64 * 64 * 32) / 1e9:.2f} GB and cpu has 0.00 GB free"
        in route.notes
    )


# PyTorch's own passes


def test_a_pass_is_left_in_the_layer_in_which_it_is_cancelled(network):
    engine, stop, later = TorchEngine(network, CPU, "fp32"), StopToken(), []
    one = network.backbone.encoder2.layer.conv1.register_forward_pre_hook(lambda *_: stop.set())
    other = network.backbone.decoder1.register_forward_pre_hook(lambda *_: later.append(1))
    try:
        with pytest.raises(CancelledError):
            engine.run(random_image((64, 32, 32)), stop)
    finally:
        one.remove()
        other.remove()
    assert later == []
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert engine.run(random_image((64, 32, 32)), StopToken()).logits.isfinite().all()


def test_values_that_are_no_numbers_in_half_precision_are_computed_again_in_single(network, monkeypatch, caplog):
    forward = TorchEngine._pass

    def overflowing(self, network, image):
        out = forward(self, network, image)
        return out if self.precision == "fp32" else SegmentationOutput(out.logits * torch.inf, out.features)

    image = random_image((64, 32, 32))
    wanted = TorchEngine(network, CPU, "fp32").run(image, StopToken())
    monkeypatch.setattr(TorchEngine, "_pass", overflowing)
    monkeypatch.setattr("napari_pcs.inference.torch_engine.computing_in", lambda *_: torch.no_grad())
    engine = TorchEngine(network, CPU, "bf16")
    with caplog.at_level(logging.WARNING):
        found = engine.run(image, StopToken())
    torch.testing.assert_close(found.logits, wanted.logits)
    assert engine.name == "PyTorch fp32"
    assert "fp32 is used from now on" in caplog.text


def test_weights_on_another_device_are_copied_and_those_at_hand_are_not(network):
    engine = TorchEngine(network, torch.device("meta"), "fp32")
    engine.place()
    assert engine._placed is not network
    assert next(network.parameters()).device == CPU
    engine.release()
    assert engine._placed is None
    here = TorchEngine(network, CPU, "fp32")
    here.place()
    assert here._placed is network


def test_a_copy_of_the_weights_goes_with_the_gpu_that_was_lost(network, monkeypatch):
    def lost(*_):
        raise RuntimeError(LOST)

    engine = TorchEngine(network, torch.device("meta"), "fp32")
    engine.place()
    monkeypatch.setattr(TorchEngine, "_pass", lost)
    with pytest.raises(RuntimeError, match="CUDA error"):
        engine.run(random_image((64, 32, 32)), StopToken())
    assert engine._placed is None


def test_half_precision_needs_more_memory_on_a_cpu_where_casts_are_kept(network):
    single, half = (TorchEngine(network, CPU, precision).pass_bytes(SMALL) for precision in ("fp32", "bf16"))
    assert single == 64 * 64 * 32 * 12 * 40
    assert half == pytest.approx(1.3 * single)
