"""Prediction takes any network that segments; here a diffusion U-Net."""

import numpy as np
import pytest
import torch
from denoisers import tiny_denoiser
from networks import CPU, SMALL, look_through_a_small_box, random_image, tiny_network

from napari_pcs.inference import run
from napari_pcs.inference.run import segment_hemisphere
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.labels import PcsClass
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.models.store import load_segmenter, save_network
from napari_pcs.predict import predict
from napari_pcs.stop import StopToken


@pytest.mark.parametrize("position", [True, False])
def test_a_saved_diffusion_unet_predicts_the_phantom(tmp_path, monkeypatch, coarse_left, position):
    look_through_a_small_box(monkeypatch)
    # With these weights it takes no solid for PCS, which would take long to measure.
    model = save_network(tiny_denoiser(seed=3, position=position), tmp_path / "denoiser", "# Random weights\n")
    found = predict(coarse_left, load_segmenter(model), model.reference, CPU)
    assert found.model.name == "denoiser"
    assert found.mode == "whole"
    assert found.labels.shape == coarse_left.tissue.shape
    assert found.probabilities.shape == (*coarse_left.tissue.shape, 2)
    skeleton, pcs = np.moveaxis(found.probabilities, -1, 0)
    assert 0 < pcs.max() <= 1
    assert (pcs <= skeleton + 1e-6).all()
    assert list(found.class_probabilities) == list(PcsClass.measured())
    assert sum(found.class_probabilities.values()) == pytest.approx(1, abs=1e-5)


def through(network, image):
    return segment_hemisphere(TorchEngine(network, CPU), image, StopToken())


def test_its_image_is_padded_to_what_it_can_halve_and_no_further():
    network, image = tiny_denoiser(), random_image((30, 41, 32), channels=1)
    found, _, route = through(network, image[0].numpy())
    with torch.inference_mode():
        logits = network(torch.nn.functional.pad(image, (0, 0, 0, 3, 0, 2))).logits
    expected = channel_probabilities(logits)[0, :, :30, :41].numpy()
    assert route.mode == "whole"
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_single_window_of_it_sees_what_the_whole_pass_sees(monkeypatch):
    network, image = tiny_denoiser(), random_image(SMALL, channels=1)[0].numpy()
    whole, classes, _ = through(network, image)
    monkeypatch.setattr(run, "free_memory", lambda _: 0)
    windows, same, route = through(network, image)
    assert route.mode == "windows"
    np.testing.assert_allclose(windows, whole, atol=1e-5)
    np.testing.assert_allclose(same, classes, atol=1e-5)


def test_memory_is_estimated_by_voxels_and_for_attention_that_is_not_fused_also_by_pairs_of_them():
    assert tiny_network().pass_bytes(1000) == 1000 * 12 * 40
    fused = tiny_denoiser()
    assert fused.pass_bytes(2000) == 2 * fused.pass_bytes(1000)
    plain = tiny_denoiser(flash_attention=False)
    # Tokens are blocks of 4^3 voxels; two heads, scores before and after the softmax.
    assert plain.pass_bytes(64_000) - fused.pass_bytes(64_000) == 1000**2 * 2 * 2 * 4
