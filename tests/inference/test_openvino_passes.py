"""The network built of OpenVINO's operations is the same function as PyTorch's."""

import numpy as np
import pytest
import torch
from networks import CPU, random_image, tiny_network
from torch.nn import functional as F

from napari_pcs.errors import CancelledError
from napari_pcs.inference import openvino_engine
from napari_pcs.inference.agreement import _image
from napari_pcs.inference.openvino_engine import OpenVINOEngine, runs_in_openvino
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.inference.weights import UnknownWeightsError
from napari_pcs.models.folders import find_model
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.lora import inject
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.models.store import load_segmenter
from napari_pcs.stop import StopToken

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")


def both(network, image):
    ours = OpenVINOEngine(network).run(image, StopToken())
    return ours, TorchEngine(network, CPU, "fp32").run(image, StopToken())


def assert_same(ours, theirs, atol=1e-4):
    torch.testing.assert_close(
        channel_probabilities(ours.logits), channel_probabilities(theirs.logits), rtol=0, atol=atol
    )
    torch.testing.assert_close(ours.features, theirs.features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((64, 32, 32), {}),
        ((96, 64, 32), {"position": False}),
        ((64, 64, 32), {"window_size": 7}),  # windows are larger than what they look at, and padded
        ((96, 32, 64), {"window_size": 3}),
        ((64, 32, 32), {"feature_size": 24, "window_size": 7}),
        ((64, 32, 32), {"flash_attention": False}),
    ],
)
def test_probabilities_and_features_are_pytorchs(shape, options):
    network = tiny_network(**options)
    assert_same(*both(network, random_image(shape, network.config.in_channels)))


def test_the_shipped_models_probabilities_are_pytorchs_on_tissue_with_much_background():
    image = torch.zeros(1, 4, 96, 96, 64)
    image[..., 16:64, 8:80, 8:48] = _image(4, (48, 72, 40))
    assert_same(*both(load_segmenter(find_model("starter")), image))


def run_op(build, x):
    parameter = openvino.opset13.parameter(list(x.shape), np.float32)
    model = openvino.Model([build(parameter)], [parameter], "op")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(x)[0]


def test_an_instance_norm_of_millions_of_voxels_with_a_constant_background_is_exact(monkeypatch):
    x = np.full((1, 2, 96, 96, 96), 0.3, np.float32)
    x[:, :, 20:60, 20:60, 20:60] = np.random.default_rng(0).normal(size=(1, 2, 40, 40, 40))
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(axis=(2, 3, 4), keepdims=True)) / np.sqrt(
        exact.var(axis=(2, 3, 4), keepdims=True) + 1e-5
    )
    from napari_pcs.inference import openvino_graph

    ours = np.abs(run_op(openvino_graph._instance_norm, x) - exact).max()
    monkeypatch.setattr(openvino_graph, "_BLOCK", 7)  # no side is a multiple of it: OpenVINO's own
    plain = np.abs(run_op(openvino_graph._instance_norm, x) - exact).max()
    assert ours < 5e-5
    assert plain > 1e-3  # what it is for


@pytest.mark.parametrize("side", [1, 3])
def test_enlarging_and_convolving_at_once_is_one_after_the_other(side):
    from napari_pcs.inference import openvino_graph

    random = torch.Generator().manual_seed(0)
    x, enlarge, after = (
        torch.randn(shape, generator=random, dtype=torch.float64)
        for shape in ((1, 3, 4, 5, 6), (3, 2, 2, 2, 2), (4, 2, side, side, side))
    )
    expected = F.conv3d(F.conv_transpose3d(x, enlarge, stride=2), after, padding=side // 2)
    composed = torch.from_numpy(openvino_graph._composed(enlarge.numpy(), after.numpy())).double()
    found = F.conv_transpose3d(x, composed, stride=2, padding=side // 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_weights_are_copied_when_a_shape_is_compiled_and_shapes_come_and_go():
    network = tiny_network()
    engine, shapes = OpenVINOEngine(network), [(64, 32, 32), (32, 64, 32), (32, 32, 64)]
    first = [engine.run(random_image(shape), StopToken()).logits for shape in shapes]
    assert len(engine._compiled) == openvino_engine._MOST
    again = [engine.run(random_image(shape), StopToken()).logits for shape in shapes]
    for one, two in zip(first, again, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    engine.release()
    torch.testing.assert_close(engine.run(random_image(shapes[-1]), StopToken()).logits, first[-1], rtol=0, atol=1e-5)


def test_weights_that_a_plain_network_has_not_are_refused():
    network = tiny_network()
    inject(network, LoraConfig())
    with pytest.raises(UnknownWeightsError, match=r"expected the weights of a plain network; PyTorch runs any other"):
        OpenVINOEngine(network).run(random_image((32, 32, 32)), StopToken())


def test_only_a_swin_unetr_and_only_where_openvino_is_installed(monkeypatch):
    assert runs_in_openvino(tiny_network())
    assert not runs_in_openvino(torch.nn.Conv3d(1, 1, 1))
    monkeypatch.setattr(openvino_engine.importlib.util, "find_spec", lambda _: None)
    assert not runs_in_openvino(tiny_network())


class SetAt(StopToken):
    """Says that it is set from the n-th time on that it is asked."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def is_set(self):
        self.left -= 1
        return self.left < 0


def test_a_pass_is_cancelled_within_it_and_the_next_one_is_sound(monkeypatch):
    network, image = tiny_network(), random_image((96, 64, 64))
    engine = OpenVINOEngine(network)
    expected = engine.run(image, StopToken()).logits
    monkeypatch.setattr(openvino_engine, "_POLL_MS", 1)
    with pytest.raises(CancelledError):
        engine.run(image, SetAt(3))
    torch.testing.assert_close(engine.run(image, StopToken()).logits, expected, rtol=0, atol=1e-5)


def test_compiling_is_not_waited_for_when_it_is_cancelled(monkeypatch):
    monkeypatch.setattr(openvino_engine, "_POLL_MS", 1)
    engine = OpenVINOEngine(tiny_network())
    with pytest.raises(CancelledError):
        engine.run(random_image((64, 32, 32)), SetAt(2))
    assert not engine._compiled
    assert engine.run(random_image((64, 32, 32)), StopToken()).logits.isfinite().all()


def test_what_is_compiled_for_another_number_of_threads_is_compiled_anew():
    engine, image, threads = OpenVINOEngine(tiny_network()), random_image((32, 32, 32)), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            engine.run(image, StopToken())
    finally:
        torch.set_num_threads(threads)
    assert [key[1] for key in engine._compiled] == [1, 2]
