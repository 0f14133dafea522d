import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.special import softmax as scipy_softmax

from napari_pcs.models.heads import ClassHead, channel_probabilities


def random_logits(seed=0, scale=4.0, shape=(2, 2, 5, 6, 7)):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.1, 4.0, 60.0])
def test_pcs_is_never_likelier_than_skeleton(scale):
    skeleton, pcs = channel_probabilities(random_logits(scale=scale).float()).unbind(dim=1)
    assert (pcs <= skeleton).all()
    assert (pcs >= 0).all()
    assert (skeleton <= 1).all()
    assert (pcs < skeleton).any()


def test_probabilities_are_those_of_the_product_rule():
    logits = random_logits(seed=1)
    found = channel_probabilities(logits).numpy()
    expected = expit(logits.numpy())
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(found[:, 1], expected[:, 0] * expected[:, 1], atol=1e-12)


def test_nested_probabilities_are_a_softmax_over_background_skeleton_and_pcs():
    logits = random_logits(seed=2).numpy()
    outer, inner = logits[:, 0], logits[:, 1]
    # P(background) : P(other skeleton) : P(PCS) as exponentials, with background at 0.
    other = outer - np.logaddexp(0, inner)
    three = scipy_softmax(np.stack([np.zeros_like(outer), other, other + inner]), axis=0)
    found = channel_probabilities(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(found[:, 1], three[2], atol=1e-12)
    np.testing.assert_allclose(found[:, 0], three[1] + three[2], atol=1e-12)


def test_extreme_logits_give_certainty_and_no_nan():
    logits = torch.tensor([[-1e4, 1e4], [1e4, -1e4], [1e4, 1e4]]).reshape(3, 2, 1, 1, 1)
    assert channel_probabilities(logits).reshape(3, 2).tolist() == [[0, 0], [1, 0], [1, 1]]


def test_the_class_head_is_a_linear_map_of_normalised_features_and_log_volume():
    torch.manual_seed(0)
    head = ClassHead(6).double().eval()
    features, volume = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0.0, 10.0, 147.4, 5000.0]).double()
    x = features.numpy()
    normalised = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + head.norm.eps)
    weight, bias = head.out.weight.detach().numpy(), head.out.bias.detach().numpy()
    evidence = np.log(1 + volume.numpy())[:, None] - 5
    expected = np.hstack([normalised, evidence]) @ weight.T + bias
    np.testing.assert_allclose(head(features, volume).detach().numpy(), expected, atol=1e-9)


def test_the_class_head_ignores_the_overall_level_of_the_features():
    torch.manual_seed(0)
    head = ClassHead(6).double().eval()
    features, volume = torch.randn(2, 6, dtype=torch.float64), torch.ones(2).double()
    # The layer norm's epsilon leaves a trace of the scale.
    torch.testing.assert_close(head(features, volume), head(3 * features + 7, volume), atol=1e-4, rtol=1e-4)
